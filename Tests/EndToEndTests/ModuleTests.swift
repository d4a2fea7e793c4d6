// SPDX-License-Identifier: Apache-2.0
// Names come from the file that ran, and from no other, whatever happened to it since; and from modules however many
// there were.

import Foundation
import IndexReader
import TestSupport
import Testing

/// modules.c, which loads libraries on demand.
private final class Loader {
  let directory: TestDirectory
  let process: ChildProcess
  /// For the programs and libraries of this test, which may be replaced.
  let files: TestDirectory

  init(prefix: [String] = [], program: String? = nil, environment: [String: String] = [:], in files: TestDirectory)
    throws
  {
    self.files = files
    directory = try TestDirectory()
    let path = try program ?? Programs.path("modules.c")
    process = try ChildProcess(
      prefix + [path],
      environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 }
        .merging(environment) { $1 }, conversing: true)
  }

  /// The blocks that it answers with.
  func say(_ command: String) throws -> [String] {
    try process.send(command + "\n")
    guard let line = try process.readLine() else { throw HarnessError("modules.c has ended: \(process.errors)") }
    return line.split(separator: " ").map(String.init)
  }

  func kill() throws {
    process.signal(SIGKILL)
    _ = try process.wait()
  }

  /// The answer to a block's address.
  func answer(_ block: String, socket: String? = nil) throws -> (
    functions: [String], reasons: Set<String>, text: String
  ) {
    let pid = "\(process.pid)"
    let outcome = try Tool.control(["query", pid, block, "--json"], in: directory, socket: socket)
    let text = try Tool.control(["query", pid, block], in: directory, socket: socket)
    guard let object = try Tool.objects(outcome.output).first else { throw HarnessError(outcome.errors) }
    let stack = object["stack"] as? [[String: Any]] ?? []
    return (
      stack.map { $0["function"] as? String ?? "?" }, Set(stack.compactMap { $0["unnamed"] as? String }), text.output
    )
  }

  func functions(_ block: String, socket: String? = nil) throws -> [String] {
    try answer(block, socket: socket).functions
  }
}

/// A copy of `module.c` with this function, under a name of its own.
private func library(_ function: String, hasBuildID: Bool, as name: String, in files: TestDirectory) throws -> String {
  let built = try Programs.path(
    "module.c",
    options: ["-fPIC", "-shared", "-DFUNCTION=\(function)", "-Wl,--build-id=\(hasBuildID ? "sha1" : "none")"])
  return try copy(built, to: files.file(name))
}

private func program(_ function: String, hasBuildID: Bool, as name: String, in files: TestDirectory) throws -> String {
  let built = try Programs.path(
    "modules.c", options: ["-DFUNCTION=\(function)", "-Wl,--build-id=\(hasBuildID ? "sha1" : "none")"])
  return try copy(built, to: files.file(name))
}

/// A new file that takes the place of what is there, as compilers and installers make it.
@discardableResult
private func copy(_ from: String, to path: String) throws -> String {
  try? FileManager.default.removeItem(atPath: path)
  try FileManager.default.copyItem(atPath: from, toPath: path)
  return path
}

/// New contents of the same file, as `cp` leaves it.
private func overwrite(_ path: String, with other: String) throws {
  let outcome = try ChildProcess.run(["cp", other, path])
  guard outcome.ending == .exit(0) else { throw HarnessError(outcome.errors) }
}

extension EndToEnd {
  @Suite("modules and their files")
  struct Modules {
    // MARK: which file it was

    @Test("a library that another build replaced gives no names of either", arguments: [true, false], [true, false])
    func replaced(hasBuildID: Bool, isInPlace: Bool) throws {
      let files = try TestDirectory()
      let path = try library("alpha", hasBuildID: hasBuildID, as: "plugin.so", in: files)
      let other = try library("omega", hasBuildID: hasBuildID, as: "other.so", in: files)
      let loader = try Loader(in: files)
      let block = try loader.say("load \(path)")[0]
      #expect(try loader.functions(block).prefix(2) == ["alpha", "make"])
      if isInPlace { try overwrite(path, with: other) } else { try copy(other, to: path) }
      let live = try loader.answer(block)
      if isInPlace || getuid() != 0 {
        #expect(live.functions.prefix(2) == ["?", "?"] && live.reasons.count == 1)
      } else {
        // The kernel shows a file that is mapped.
        #expect(live.functions.prefix(2) == ["alpha", "make"])
      }
      try loader.kill()
      let dead = try loader.answer(block)
      #expect(dead.functions.prefix(2) == ["?", "?"])
      let isTold = isInPlace && !hasBuildID ? "changed after it was loaded" : "another one"
      #expect(dead.reasons.contains { $0.contains(isTold) }, "\(dead.reasons)")
      #expect(dead.text.contains("no names of plugin.so: ") && dead.text.contains(isTold), "\(dead.text)")
    }

    @Test(
      "an executable that was removed, or built anew, has its names while it runs", arguments: [true, false],
      [true, false])
    func executable(hasBuildID: Bool, isReplaced: Bool) throws {
      let files = try TestDirectory()
      let path = try program("alpha", hasBuildID: hasBuildID, as: "program", in: files)
      let loader = try Loader(program: path, in: files)
      let block = try loader.say("own")[0]
      if isReplaced {
        try copy(program("omega", hasBuildID: hasBuildID, as: "other", in: files), to: path)
      } else {
        try FileManager.default.removeItem(atPath: path)
      }
      #expect(try loader.functions(block).prefix(2) == ["alpha", "main"])
      try loader.kill()
      let dead = try loader.answer(block)
      #expect(dead.functions.prefix(2) == ["?", "?"])
      #expect(dead.reasons == [isReplaced ? "the file at its path is another one" : "its file is gone"])
    }

    @Test("a library in memory, which no path ever led to, has its names while it is mapped", arguments: [true, false])
    func inMemory(hasBuildID: Bool) throws {
      try #require(getuid() == 0, "links to mappings are followed for root only")
      let files = try TestDirectory()
      let loader = try Loader(in: files)
      let block = try loader.say("memory \(library("alpha", hasBuildID: hasBuildID, as: "plugin.so", in: files))")[0]
      #expect(try loader.functions(block).prefix(2) == ["alpha", "make"])
      try loader.kill()
      #expect(try loader.answer(block).reasons == ["its file is gone"])
    }

    @Test("the server keeps what no path leads to for the time after the process", arguments: [true, false])
    func kept(hasBuildID: Bool) throws {
      let files = try TestDirectory()
      let loader = try Loader(
        program: program("alpha", hasBuildID: hasBuildID, as: "program", in: files), in: files)
      let block = try loader.say("own")[0]
      try FileManager.default.removeItem(atPath: files.file("program"))
      let server = try Server(loader.directory)
      try wait(for: "allocsd holds the file", of: server.process) { try server.metric("allocsd_files_held") == 1 }
      try loader.kill()
      #expect(try loader.functions(block, socket: server.socket).first == "alpha")
      // Nobody else has it.
      #expect(try loader.functions(block).first == "?")
    }

    @Test(
      "a file that only the program's mount namespace has gives its names, and one outside does not",
      arguments: [true, false])
    func mountNamespace(hasBuildID: Bool) throws {
      try #require(getuid() == 0, "mounting is for root only")
      let files = try TestDirectory()
      let (inner, outer) = (try files.directory("inner"), try files.directory("outer"))
      _ = try program("alpha", hasBuildID: hasBuildID, as: "inner/program", in: files)
      _ = try program("omega", hasBuildID: hasBuildID, as: "outer/program", in: files)
      let loader = try Loader(
        prefix: ["unshare", "-m", "sh", "-c", "mount --bind \(inner) \(outer) && exec $0"],
        program: "\(outer)/program", in: files)
      #expect(try loader.functions(loader.say("own")[0]).prefix(2) == ["alpha", "main"])
    }

    // MARK: names of files

    @Test(
      "a library has its names whatever it was called by",
      arguments: [
        "./plugin.so", "plugin.so", "sub/../plugin.so", ".//plugin.so", "//proc/self/cwd/plugin.so",
        "./new%0Aline.so", "./b%FFytes%80.so", "./ü.so",
      ])
    func called(_ name: String) throws {
      let files = try TestDirectory()
      _ = try files.directory("sub")
      let path = try library("alpha", hasBuildID: name.contains("%FF"), as: "plugin.so", in: files)
      let target = name.removingPercentEncodingAsBytes
      let loader = try Loader(environment: ["LD_LIBRARY_PATH": "."], in: files)
      _ = try loader.say("directory \(files.path)")
      if !name.hasSuffix("plugin.so") {
        let full = Array((files.path + "/").utf8) + target + [0]
        #expect(
          full.withUnsafeBufferPointer { $0.withMemoryRebound(to: CChar.self) { rename(path, $0.baseAddress!) } } == 0)
      }
      let block = try loader.say("load \(name)")[0]
      _ = try loader.say("directory /")
      #expect(try loader.functions(block).prefix(2) == ["alpha", "make"])
      try loader.kill()
      #expect(try loader.functions(block).prefix(2) == ["alpha", "make"])
      let segment = try Segment(path: loader.directory.segment(of: loader.process.pid))
      let module = try #require(segment.modules.last)
      #expect(module.path.hasPrefix(files.path) && !module.path.contains("/./"))
      let text = try loader.answer(block).text
      #expect(!text.utf8.contains(0xFF) && text.allSatisfy { $0 == "\n" || !$0.isNewline })
      // A name of bytes would keep the directory from being removed.
      for entry in try FileManager.default.contentsOfDirectory(atPath: files.path) {
        try? FileManager.default.removeItem(atPath: files.file(entry))
      }
      _ = try ChildProcess.run(["rm", "-rf", files.path])
    }

    @Test("the executable is found when ld.so was called to start it")
    func byLoader() throws {
      let files = try TestDirectory()
      let path = try program("alpha", hasBuildID: false, as: "program", in: files)
      let loader = try Loader(prefix: ["/lib64/ld-linux-x86-64.so.2"], program: path, in: files)
      let block = try loader.say("own")[0]
      #expect(try loader.functions(block).prefix(2) == ["alpha", "main"])
      let segment = try Segment(path: loader.directory.segment(of: loader.process.pid))
      #expect(segment.modules.filter(\.isMain).map(\.path.unescaped) == [path])
    }

    // MARK: many

    @Test(
      "two libraries in turns at one place are told apart, and take no more entries than two", arguments: [true, false])
    func turns(hasBuildID: Bool) throws {
      let files = try TestDirectory()
      let first = try library("alpha", hasBuildID: hasBuildID, as: "first.so", in: files)
      let second = try library("omega", hasBuildID: hasBuildID, as: "second.so", in: files)
      let last = try library("final", hasBuildID: hasBuildID, as: "last.so", in: files)
      let loader = try Loader(in: files)
      let before = try loader.say("turns 2 \(first) \(second)")
      let blocks = try loader.say("turns 10000 \(first) \(second)")
      let late = try loader.say("load \(last)")[0]
      for blocks in [before, blocks] {
        #expect(try loader.functions(blocks[0]).prefix(2) == ["alpha", "make"])
        #expect(try loader.functions(blocks[1]).prefix(2) == ["omega", "make"])
      }
      #expect(try loader.functions(late).prefix(2) == ["final", "make"])
      let segment = try Segment(path: loader.directory.segment(of: loader.process.pid))
      #expect(segment.modules.filter { $0.path.hasPrefix(files.path) }.count <= 4)
    }

    @Test("a library that comes after twenty thousand others has its names")
    func distinct() throws {
      let files = try TestDirectory()
      let path = try library("alpha", hasBuildID: true, as: "plugin.so", in: files)
      let loader = try Loader(in: files)
      let block = try loader.say("links 20000 \(path)")[0]
      let late = try loader.say("load \(library("final", hasBuildID: true, as: "last.so", in: files))")[0]
      #expect(try loader.functions(block).prefix(2) == ["alpha", "make"])
      #expect(try loader.functions(late).prefix(2) == ["final", "make"])
      #expect(try Segment(path: loader.directory.segment(of: loader.process.pid)).modules.count > 20_000)
    }

    @Test("where the table is small and full, entries of libraries that went are given to others, and that is said")
    func full() throws {
      let files = try TestDirectory()
      let path = try library("alpha", hasBuildID: true, as: "plugin.so", in: files)
      // A limit of address space makes the table small.
      let loader = try Loader(
        prefix: ["prlimit", "--as=\(64 << 30)"], program: Programs.path("modules.c"), in: files)
      let early = try loader.say("links 2 \(path)")[0]
      let block = try loader.say("links 5000 \(library("beta", hasBuildID: true, as: "other.so", in: files))")[0]
      let late = try loader.say("load \(library("final", hasBuildID: true, as: "last.so", in: files))")[0]
      #expect(try loader.functions(block).prefix(2) == ["beta", "make"])
      #expect(try loader.functions(late).prefix(2) == ["final", "make"])
      let forgotten = try loader.answer(early)
      #expect(forgotten.functions.prefix(2) == ["?", "?"] && forgotten.functions.last == "_start")
      #expect(forgotten.reasons.contains { $0.contains("its place in the index's table of modules is another's") })
      let segment = try Segment(path: loader.directory.segment(of: loader.process.pid))
      let counters = Dictionary(uniqueKeysWithValues: segment.counters.map { ($0.name, $0.value) })
      #expect(segment.modules.count == 4096)
      #expect(counters["modules_forgotten", default: 0] > 900 && counters["modules_dropped", default: 0] == 0)
    }
  }
}

extension String {
  /// With %XX as bytes, and without the directory.
  fileprivate var removingPercentEncodingAsBytes: [UInt8] {
    var bytes: [UInt8] = []
    var rest = Array(utf8)[...]
    while let byte = rest.popFirst() {
      if byte == UInt8(ascii: "%"), let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) {
        bytes.append(value)
        rest = rest.dropFirst(2)
      } else {
        bytes.append(byte)
      }
    }
    return bytes.starts(with: "./".utf8) ? Array(bytes.dropFirst(2)) : bytes
  }
}
