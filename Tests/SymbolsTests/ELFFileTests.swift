// SPDX-License-Identifier: Apache-2.0
// Program headers and notes of ELF files: this program's own, cut and damaged ones.

import Foundation
import TestSupport
import Testing

@testable import Symbols

@Suite("ELF files", .bounded)
struct ELFFileTests {
  /// The start of this program's file, with all that its headers lead to but for the segments themselves.
  private func program() throws -> [UInt8] {
    let file = try #require(FileHandle(forReadingAtPath: "/proc/self/exe"))
    return Array(try #require(try file.read(upToCount: 8192)))
  }

  @Test("this program's addresses are those that it is mapped with")
  func own() throws {
    let file = try #require(ELFFile(ELFBytes(try program())))
    let addresses = try #require(file.loadedAddresses)
    let path = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    let lines = try String(contentsOfFile: "/proc/self/maps", encoding: .utf8).split(separator: "\n")
    let bounds = lines.filter { $0.hasSuffix(path) }.map { line in
      line.prefix { $0 != " " }.split(separator: "-").compactMap { UInt64($0, radix: 16) }
    }
    let (first, last) = (try #require(bounds.first), try #require(bounds.last))
    #expect(!addresses.isEmpty)
    #expect(first[0] + UInt64(addresses.count) >= last[1] - 4096)
  }

  @Test("an open file and its bytes say the same, as does libelf")
  func sources() throws {
    let path = "/proc/self/exe"
    let handle = try #require(FileHandle(forReadingAtPath: path))
    let open = try #require(ELFFile(ELFBytes(descriptor: handle.fileDescriptor)))
    let read = try #require(ELFFile(ELFBytes(try program())))
    #expect(open.loadedAddresses == read.loadedAddresses)
    #expect(open.interpreter == ModuleFile(path: ForeignText(path))?.interpreter)
    #expect(open.interpreter?.hasPrefix("/lib") == true)
    #expect(!open.buildID.isEmpty || open.notes.allSatisfy { $0.type != 3 })
    #expect(open.buildID == ObjectFile(path: ForeignText(path))?.buildID)
    #expect(try #require(open.dynamic).linksOthers)
  }

  @Test("a static program links no others; a file that is no program is none")
  func others() throws {
    #expect(ELFFile(ELFBytes([])) == nil)
    #expect(ELFFile(ELFBytes(Array("#!/bin/sh\n".utf8))) == nil)
    // An object file has no program headers.
    var object = try program()
    object[16] = 1
    #expect(ELFFile(ELFBytes(object)) == nil)
    var foreign = try program()
    foreign[4] = 1
    #expect(ELFFile(ELFBytes(foreign)) == nil)
    #expect(ELFMachine(foreign).map { !$0.isWide && $0 != .native } == true)
  }

  @Test("no cut and no flipped byte of a header does harm")
  func damaged() throws {
    let program = try program()
    for size in 0..<1024 { use(Array(program.prefix(size))) }
    var generator = RandomNumbers()
    var accepted = 0
    for _ in 0..<2000 {
      var bytes = program
      for _ in 0..<8 {
        bytes[Int.random(in: 0..<1024, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      }
      if use(bytes) { accepted += 1 }
    }
    #expect(accepted > 100, "\(accepted) of 2000 were still headers")
  }

  /// Asks for all that there is to know; whether the file was taken for one.
  @discardableResult
  private func use(_ bytes: [UInt8]) -> Bool {
    _ = ELFMachine(bytes)?.name
    guard let file = ELFFile(ELFBytes(bytes)) else { return false }
    _ = (file.loadedAddresses, file.interpreter, file.dynamic, file.buildID)
    return true
  }

  @Test("of 65,535 segments of notes, all of them the same bytes, a few are read")
  func manyNotes() throws {
    let (count, headerSize, noteBytes) = (65_535, 56, 1 << 16)
    var bytes = Array(try program().prefix(64))
    func put(_ value: Int, at offset: Int, size: Int) {
      for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index)) }
    }
    put(64, at: 32, size: 8)
    put(count, at: 56, size: 2)
    bytes += [UInt8](repeating: 0, count: count * headerSize)
    let notes = bytes.count
    for start in stride(from: 64, to: notes, by: headerSize) {
      put(4, at: start, size: 4)
      put(notes, at: start + 8, size: 8)
      put(noteBytes, at: start + 32, size: 8)
      put(8, at: start + 48, size: 8)
    }
    // Notes without a name and a content take twelve bytes, and room for each.
    bytes += [UInt8](repeating: 0, count: noteBytes)
    let file = try #require(ELFFile(ELFBytes(bytes)))
    #expect(file.buildID.isEmpty)
    #expect((1...500_000).contains(file.notes.count), "\(file.notes.count)")
  }

  private func buildID(_ bytes: [UInt8], alignment: Int = 4) -> [UInt8] {
    ELFNote.buildID(among: ELFNote.all(in: bytes, alignment: alignment))
  }

  @Test("the build id among notes")
  func notes() {
    let other: [UInt8] = [4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0] + Array("GNU\0".utf8) + [1, 2, 3, 4, 5, 0, 0, 0]
    let id: [UInt8] = [4, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0] + Array("GNU\0".utf8) + [0xAA, 0xBB, 0xCC, 0]
    #expect(buildID(other + id) == [0xAA, 0xBB, 0xCC])
    #expect(buildID(other).isEmpty)
    for size in 0..<(other + id).count - 1 { #expect(buildID(Array((other + id).prefix(size))).isEmpty) }
    #expect(buildID([UInt8](repeating: 0xFF, count: 64)).isEmpty)
  }

  @Test("notes that are aligned to 8 bytes, as those of the processor's properties")
  func wideNotes() {
    let property: [UInt8] =
      [4, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0] + Array("GNU\0".utf8) + [1, 2, 3, 4, 0, 0, 0, 0]
    let id: [UInt8] = [4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0] + Array("GNU\0".utf8) + [0xAA, 0xBB]
    let notes = ELFNote.all(in: property + id, alignment: 8)
    #expect(notes.map(\.content) == [[1, 2, 3, 4], [0xAA, 0xBB]])
    #expect(notes.map(\.owner) == ["GNU", "GNU"])
    #expect(buildID(property + id, alignment: 8) == [0xAA, 0xBB])
  }
}
