// SPDX-License-Identifier: Apache-2.0
// Programs with known functions at known lines, compiled when a test needs them.

import Foundation
import Symbols
import TestSupport
import Testing

/// Runs a tool to its end; standard output as text. Throws what it wrote to standard error if it fails.
@discardableResult
func run(_ tool: String, _ arguments: [String], input: String? = nil) throws -> String {
  let outcome = try ChildProcess.run([tool] + arguments, input: input)
  guard outcome.ending == .exit(0) else {
    throw HarnessError("\(tool) \(arguments.joined(separator: " ")): \(outcome.ending), \(outcome.errors)")
  }
  return outcome.output
}

func findTool(_ name: String) -> String? {
  if name.hasPrefix("/") { return name }
  return (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map { "\($0)/\(name)" }
    .first { FileManager.default.isExecutableFile(atPath: $0) }
}

/// A compiled program, its probes' return addresses, and where its marked lines are.
struct TestProgram {
  static let sources = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("Programs").path
  /// Where the tests pretend that the module was mapped.
  static let bias: UInt64 = 0x7f12_3456_7000

  let folder: TestDirectory
  let path: String
  let source: String
  var buildID: [UInt8]
  /// Return addresses of the calls to `probe`, by name, in the ELF file.
  private(set) var probes: [String: UInt64] = [:]

  /// `arguments` come after the sources. The program is run once for its probes.
  init(_ source: String, compiler: String, _ arguments: [String], name: String = "program") throws {
    let folder = try TestDirectory()
    self.folder = folder
    path = "\(folder.path)/\(name)"
    self.source = "\(Self.sources)/\(source)"
    let helpers = try ["probe", "leave"].map { helper in
      let object = "\(folder.path)/\(helper).o"
      try run("gcc", ["-O1", "-fPIC", "-c", "\(Self.sources)/\(helper).c", "-o", object])
      return object
    }
    switch compiler {
    case "rustc":
      try run(
        compiler, [self.source, "-o", path] + helpers.flatMap { ["-C", "link-arg=\($0)"] } + arguments)
    default:
      try run(compiler, [self.source] + helpers + ["-o", path] + arguments)
    }
    buildID = try Self.readBuildID(path)
    for line in try run(path, []).split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count == 2, let address = UInt64(words[1], radix: 16) { probes[String(words[0])] = address }
    }
  }

  static func readBuildID(_ path: String) throws -> [UInt8] {
    let line = try run("readelf", ["-n", path]).split(separator: "\n").first { $0.contains("Build ID:") }
    guard let digits = line?.split(separator: " ").last else { return [] }
    return stride(from: 0, to: digits.count, by: 2).compactMap { offset in
      UInt8(digits.dropFirst(offset).prefix(2), radix: 16)
    }
  }

  var module: ModuleReference {
    ModuleReference(
      path: ForeignText(path), buildID: buildID, start: Self.bias, end: Self.bias + (1 << 32), bias: Self.bias)
  }

  func frames(_ probe: String, _ symbolizer: Symbolizer = Symbolizer()) throws -> [Frame] {
    let address = try #require(probes[probe], "the program did not print \(probe)")
    return symbolizer.frames(returnAddress: address + Self.bias, in: module)
  }

  /// The line that ends in "@name", from 1.
  func line(_ mark: String) throws -> Int {
    let lines = try String(contentsOfFile: source, encoding: .utf8).components(separatedBy: "\n")
    return try #require(lines.firstIndex { $0.hasSuffix("@\(mark)") }, "no mark \(mark)") + 1
  }

  /// Address and size of a symbol in the ELF file, by its name as `nm` prints it.
  func symbol(_ name: String) throws -> (address: UInt64, size: UInt64) {
    for line in try run("nm", ["-S", path]).split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count == 4, words[3] == name, let address = UInt64(words[0], radix: 16),
        let size = UInt64(words[1], radix: 16)
      {
        return (address, size)
      }
    }
    throw HarnessError("no symbol \(name) in \(path)")
  }
}

/// One frame as a test expects it.
struct ExpectedFrame: Equatable, CustomStringConvertible {
  var function: String?
  var file: String?
  var line: Int?
  var inlined = false

  var description: String { "\(function ?? "-") \(file ?? "-"):\(line ?? 0)\(inlined ? " inlined" : "")" }
}

extension Frame {
  var seen: ExpectedFrame {
    ExpectedFrame(
      function: function?.unescaped, file: file?.fileName.unescaped, line: line, inlined: inlined)
  }
}

extension TestProgram {
  /// The addresses that the program's segments take, in whole pages.
  func loadedSpan() throws -> Range<UInt64> {
    var low = UInt64.max
    var high = UInt64(0)
    for line in try run("readelf", ["-lW", path]).split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.first == "LOAD", words.count > 5, let address = UInt64(words[2].dropFirst(2), radix: 16),
        let size = UInt64(words[5].dropFirst(2), radix: 16)
      else { continue }
      low = min(low, address)
      high = max(high, address + size)
    }
    return low & ~4095..<(high + 4095) & ~4095
  }
}
