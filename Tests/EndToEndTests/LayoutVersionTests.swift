// SPDX-License-Identifier: Apache-2.0
// Files of other layout versions: what an agent, `ps` and `prune` do with them. docs/layout-versions.md is held against
// this.

import Foundation
import IndexReader
import SharedLayout
import TestSupport
import Testing

extension EndToEnd {
  @Suite("layout versions")
  struct LayoutVersions {
    /// Writes a number of four bytes into a file.
    private static func store(_ value: UInt32, at offset: Int, in path: String) throws {
      let file = try #require(FileHandle(forWritingAtPath: path))
      try file.seek(toOffset: UInt64(offset))
      try file.write(contentsOf: withUnsafeBytes(of: value.littleEndian) { Data($0) })
      try file.close()
    }

    private static let versionOffset = MemoryLayout<allocs_header>.offset(of: \.layout_version)!
    private static let controlVersionOffset = MemoryLayout<allocs_control>.offset(of: \.version)!

    @Test(
      "after exec the agent replaces the files of its process, of whatever version, and counts on where it can",
      arguments: [
        (1, 1), (ALLOCS_OLDEST_LAYOUT_VERSION, 42), (ALLOCS_LAYOUT_VERSION, 42), (ALLOCS_LAYOUT_VERSION + 1, 42),
      ] as [(UInt32, UInt32)])
    func ownName(version: UInt32, programsBefore: UInt32) throws {
      let directory = try TestDirectory()
      // bash has an index, becomes a program of another version's, and is waited for; then it becomes the program.
      let process = try ChildProcess(
        ["bash", "-c", "echo ready; read; exec \"$0\"", Programs.path("stationary.c")],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      _ = try process.readLines(until: "ready")
      let path = try directory.segment(of: process.pid)
      let control = EventConsumer.controlPath(ofSegment: path)
      try Self.store(version, at: Self.versionOffset, in: path)
      try Self.store(41, at: Int(ALLOCS_PROGRAMS_BEFORE_OFFSET), in: path)
      try Self.store(ALLOCS_CONTROL_VERSION + 1, at: Self.controlVersionOffset, in: control)
      try process.send("\n")
      _ = try process.readLines(until: "ready")

      #expect(try directory.segments(of: process.pid) == [path])
      let segment = try Segment(path: path)
      let count = segment.programsBefore
      #expect(count == programsBefore)
      var cursors: [RingCursor] = []
      let consumer = try EventConsumer(to: segment, cursors: &cursors)
      let isAttached = consumer.isAttached
      #expect(isAttached)
    }

    @Test("a process whose index is of an unknown version is listed with the reason, and harms no other")
    func listed() throws {
      let directory = try TestDirectory()
      let (strange, known) = (try Stationary(in: directory), try Stationary(in: directory))
      let path = try directory.segment(of: strange.process.pid)
      try Self.store(ALLOCS_LAYOUT_VERSION + 1, at: Self.versionOffset, in: path)
      let outcome = try Tool.control(["ps"], in: directory)
      let text = outcome.output.replacingOccurrences(of: "\n", with: " ")
      #expect(outcome.ending == .exit(0), "\(outcome)")
      #expect(text.contains("version \(ALLOCS_LAYOUT_VERSION + 1)"), "\(text)")
      #expect(text.contains("versions \(ALLOCS_OLDEST_LAYOUT_VERSION) to \(ALLOCS_LAYOUT_VERSION)"))
      #expect(try known.ask(known.place("block").address)["kind"] as? String == "heap")
    }

    @Test("a control file of another version is named, and the index is read all the same")
    func control() throws {
      let program = try Stationary()
      let path = try program.directory.segment(of: program.process.pid)
      let version = ALLOCS_CONTROL_VERSION + 1
      try Self.store(version, at: Self.controlVersionOffset, in: EventConsumer.controlPath(ofSegment: path))
      let segment = try Segment(path: path)
      let known = ALLOCS_CONTROL_VERSION...ALLOCS_CONTROL_VERSION
      var cursors: [RingCursor] = []
      do {
        _ = try EventConsumer(to: segment, cursors: &cursors)
        Issue.record("the consumer attached")
      } catch {
        #expect(
          error == .otherVersion(path: EventConsumer.controlPath(ofSegment: path), found: version, known: known))
      }
      #expect(try program.ask(program.place("block").address)["kind"] as? String == "heap")
    }

    @Test("what a process with an index of an unknown version leaves goes with the rest, and not while it lives")
    func pruned() throws {
      let directory = try TestDirectory()
      let programs = try (0..<2).map { _ in try Stationary(in: directory) }
      let paths = try programs.map { try directory.segment(of: $0.process.pid) }
      for path in paths { try Self.store(ALLOCS_LAYOUT_VERSION + 1, at: Self.versionOffset, in: path) }
      programs[0].process.signal(SIGKILL)
      _ = try programs[0].process.wait()
      #expect(try Tool.control(["prune"], in: directory).output.contains("removed 1 segment"))
      #expect(try directory.segments() == [paths[1]])
    }
  }
}
