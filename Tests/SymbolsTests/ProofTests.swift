// SPDX-License-Identifier: Apache-2.0
// Which file counts as the one that ran: the rules, one by one.

import ByteText
import Foundation
import Symbols
import TestSupport
import Testing

@Suite("Proof of a module's file", .bounded)
struct ProofTests {
  private static let flags = ["-O2", "-g", "-Wl,--build-id=none"]

  private func state(of path: String) throws -> FileState {
    var status = stat()
    try #require(stat(path, &status) == 0)
    return FileState(status)
  }

  /// The names found at the probe `hidden` of a module whose reference is changed by `change`.
  private func found(
    _ program: TestProgram, _ change: (inout ModuleReference) throws -> Void = { _ in }
  ) throws -> (function: String?, loss: NameLoss?) {
    let span = try program.loadedSpan()
    var module = program.module
    module.start = span.lowerBound + TestProgram.bias
    module.end = span.upperBound + TestProgram.bias
    try change(&module)
    let address = try #require(program.probes["hidden"])
    let frame = try #require(
      Symbolizer(debugRoots: []).frames(returnAddress: address + TestProgram.bias, in: module).first)
    return (frame.function?.unescaped, frame.unnamed)
  }

  @Test("without a build id, the very file in its very state is proof")
  func sameState() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", Self.flags)
    let found = try found(program) { $0.file = try state(of: program.path) }
    #expect(found.function == "hidden" && found.loss == nil)
  }

  @Test("an equal span is no proof: a module of which no more is known has no names")
  func spanOnly() throws {
    let found = try found(TestProgram("plain.c", compiler: "gcc", Self.flags))
    #expect(found.function == nil && found.loss == .unproved)
  }

  @Test("each part of the file's state counts")
  func eachPart() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", Self.flags)
    let known = try state(of: program.path)
    let changes: [(WritableKeyPath<FileState, UInt64>, NameLoss)] = [
      (\.device, .otherFile), (\.inode, .otherFile), (\.size, .changed), (\.seconds, .changed),
    ]
    for (part, loss) in changes {
      let found = try found(program) {
        $0.file = known
        $0.file![keyPath: part] += 1
      }
      #expect(found.function == nil && found.loss == loss, "\(part)")
    }
    let found = try found(program) {
      $0.file = known
      $0.file!.nanoseconds ^= 1
    }
    #expect(found.function == nil && found.loss == .changed)
  }

  @Test("a file that has a build id is not that of a module without one, whatever its state, nor the other way round")
  func buildIDs() throws {
    let plain = try TestProgram("plain.c", compiler: "gcc", Self.flags)
    let marked = try TestProgram("plain.c", compiler: "gcc", ["-O2", "-g", "-Wl,--build-id=sha1"])
    let wrong = try found(marked) {
      $0.file = try state(of: marked.path)
      $0.buildID = []
    }
    #expect(wrong.function == nil && wrong.loss == .otherFile)
    let other = try found(plain) {
      $0.file = try state(of: plain.path)
      $0.buildID = marked.buildID
    }
    #expect(other.function == nil && other.loss == .otherFile)
    // With a build id nothing else is asked for.
    let copied = try found(marked) { $0.file = FileState(device: 1, inode: 1, size: 1, seconds: 1, nanoseconds: 1) }
    #expect(copied.function == "hidden")
  }

  @Test("a copy is another file")
  func copied() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", Self.flags)
    let known = try state(of: program.path)
    let folder = try TestDirectory()
    try run("cp", ["-p", program.path, "\(folder.path)/copy"])
    let found = try found(program) {
      $0.file = known
      $0.path = "\(folder.path)/copy"
    }
    #expect(found.function == nil && found.loss == .otherFile)
  }

  @Test("a path of bytes that are no UTF-8 is opened as it is")
  func bytes() throws {
    let program = try TestProgram("plain.c", compiler: "gcc", Self.flags)
    let folder = try TestDirectory()
    let path = Array("\(folder.path)/b".utf8) + [0xFF, 0x80, 0x0A]
    let moved = (path + [0]).withUnsafeBufferPointer { bytes in
      bytes.withMemoryRebound(to: CChar.self) { link(program.path, $0.baseAddress!) }
    }
    try #require(moved == 0)
    defer { _ = try? run("rm", ["-rf", folder.path]) }
    var status = stat()
    let isThere = (path + [0]).withUnsafeBufferPointer { bytes in
      bytes.withMemoryRebound(to: CChar.self) { stat($0.baseAddress!, &status) }
    }
    try #require(isThere == 0)
    let found = try found(program) {
      $0.path = ForeignText(reversibly: path)
      $0.file = FileState(status)
    }
    #expect(found.function == "hidden")
  }
}
