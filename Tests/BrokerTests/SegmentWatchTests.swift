// SPDX-License-Identifier: Apache-2.0
// The watch of segments: whatever one directory has, others have their turn, and nothing takes long.

import Glibc
import SegmentFiles
import SystemAccess
import TestSupport
import Testing

@testable import SegmentWatch

@Suite("the watch of segments", .bounded)
struct SegmentWatchTests {
  /// No process has this id.
  private static let nobody: Int32 = 5_000_000

  @Test("a scan in pieces finds the same segments as a whole one, the newest of each owner, and counts the others")
  func scan() throws {
    let directory = try TestDirectory()
    let most = SegmentDirectory.mostOfOwner
    for number in 1...most + 50 {
      let name = SegmentFile.name(processID: Self.nobody, startTime: UInt64(number))
      directory.touch(name, modified: number <= 50 ? 1000 : nil)
    }
    let scan = try #require(try DirectoryScan(directory.path))
    var found: [SegmentFile] = []
    var pieces = 0
    while true {
      // The time is over at once: each piece is as small as can be.
      let (files, isLast) = scan.step(until: 0)
      pieces += 1
      #expect(files.count <= 8)
      found += files
      if isLast { break }
    }
    #expect(pieces > most / 8)
    #expect(Set(found.map(\.startTime)) == Set(UInt64(51)...UInt64(most + 50)))
    #expect(scan.omitted == [geteuid(): 50])
  }

  @Test("a directory that changes without end is left out, and watched again; others are not kept from their turn")
  func churn() throws {
    let busy = try TestDirectory()
    let quiet = try TestDirectory()
    var watcher = try DirectoryWatcher([busy.path, quiet.path])
    for number in 0..<50 { busy.touch("\(number)") }
    var changes = watcher.changes()
    #expect(changes.contains(.appeared(path: busy.file("49"))))
    while !changes.isEmpty { changes = watcher.changes() }
    watcher.pause(busy.path)
    for number in 50..<100 { busy.touch("\(number)") }
    quiet.touch("a")
    changes = watcher.changes()
    #expect(changes == [.appeared(path: quiet.file("a"))])
    watcher.resume(busy.path)
    busy.touch("100")
    changes = watcher.changes()
    #expect(changes == [.appeared(path: busy.file("100"))])
  }

  @Test("one read takes a few hundred changes, however many have come")
  func pieces() throws {
    let directory = try TestDirectory()
    var watcher = try DirectoryWatcher([directory.path])
    for number in 0..<3000 { directory.touch("\(number)") }
    var (total, calls) = (0, 0)
    while true {
      let changes = watcher.changes()
      if changes.isEmpty { break }
      (total, calls) = (total + changes.count, calls + 1)
      #expect(changes.count <= 1024)
    }
    #expect(total == 3000 && calls >= 3)
  }

  @Test("a sweep is due where it would mark or remove something, and nowhere else")
  func due() throws {
    let directory = try TestDirectory()
    directory.touch(SegmentFile.name(processID: Self.nobody, startTime: 1))
    let now = seconds(of: CLOCK_REALTIME)
    let found = try SegmentDirectory.list(in: [directory.path])
    #expect(RetentionPolicy().isSweepDue(found, at: now))
    SegmentDirectory.sweep(in: [directory.path])
    let marked = try SegmentDirectory.list(in: [directory.path])
    #expect(!RetentionPolicy().isSweepDue(marked, at: now))
    #expect(RetentionPolicy(maximumCount: 0).isSweepDue(marked, at: now))
    #expect(RetentionPolicy(maximumAge: 60).isSweepDue(marked, at: now + 100))
    #expect(!RetentionPolicy().isSweepDue([], at: now))
  }

  @Test("an empty file, and a file with another's header, fit no process")
  func headers() throws {
    let directory = try TestDirectory()
    directory.touch(SegmentFile.name(processID: Self.nobody, startTime: 1))
    let segment = SyntheticSegment(
      processID: Self.nobody, startTime: 2, in: directory.path,
      name: SegmentFile.name(processID: Self.nobody, startTime: 3))
    let right = SyntheticSegment(
      processID: Self.nobody, startTime: 4, in: directory.path,
      name: SegmentFile.name(processID: Self.nobody, startTime: 4))
    let fitting = try SegmentDirectory.list(in: [directory.path]).filter(\.hasFittingHeader)
    #expect(fitting.map(\.startTime) == [4])
    withExtendedLifetime((segment, right)) {}
  }
}
