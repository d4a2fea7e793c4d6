// SPDX-License-Identifier: Apache-2.0
// Files that are no segment, no longer one, or one that lies: each gets its own error, or harmless answers; never a
// crash.

import Glibc
import IndexReader
import SharedLayout
import SystemAccess
import TestSupport
import Testing

/// The error that opening `path` ends in; nil if it opens. A segment that opens is asked everything.
func openingError(_ path: String) -> Complaint? {
  do throws(Complaint) {
    let segment = try Segment(path: path)
    askEverything(segment)
    return nil
  } catch {
    #expect(error.description.contains(path))
    #expect(error.description.contains(" — "))
    return error
  }
}

private func askEverything(_ segment: borrowing Segment) {
  for address: UInt64 in [0, 0x5555_0000_0000, 0x5555_0000_0020, 0x5555_03FF_FFFF, 1 << 46, .max] {
    _ = segment.lookup(address)
    _ = segment.wasUsed(address)
    _ = segment.module(containing: address, at: 7)
  }
  _ = segment.totals()
  for id: UInt32 in [0, 1, 2, 63, 1023, 1024, 0xFF_FFFF, .max] {
    _ = segment.context(id)
    _ = segment.stack(ofNode: id)
    _ = segment.thread(slot: id, at: 1)
  }
  _ = (segment.threads, segment.formerThreads, segment.modules, segment.counters, segment.command, segment.state)
  _ = (segment.age(ofTicks: 0), segment.clock().wallTime(ofTicks: ALLOCS_TICK_MASK), segment.isProcessAlive)
}

/// A segment with something in every table.
private func furnished() -> SyntheticSegment {
  let synthetic = SyntheticSegment()
  let thread = synthetic.addThread(id: 4242, name: "worker", from: 1)
  synthetic.replaceThread(slot: thread, endingAt: 5, by: 4243, name: "next", from: 7)
  synthetic.addModule(path: "/usr/bin/program", range: 0x4000_0000..<0x5000_0000, buildID: [1, 2, 3])
  let node = synthetic.addNode(pc: 0x4000_1000, parent: synthetic.addNode(pc: 0x4000_2000))
  let context = synthetic.addContext(node: node, thread: thread)
  for index in 0..<1000 {
    synthetic.allocate(0x5555_0000_0000 + UInt64(index) * 0x80, size: UInt64(index % 100), context: context, ticks: 3)
  }
  return synthetic
}

private func withFile<Result>(_ bytes: [UInt8], _ body: (String) throws -> Result) rethrows -> Result {
  let path = unusedPath("damage")
  let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
  precondition(descriptor >= 0 && write(descriptor, bytes, bytes.count) == bytes.count)
  close(descriptor)
  defer { unlink(path) }
  return try body(path)
}

@Suite("Damage", .bounded)
struct DamageTests {
  @Test("a segment whose header names another process than its file's name is refused")
  func otherProcess() throws {
    let directory = try TestDirectory()
    for (name, isRefused) in [("7.9.seg", false), ("8.9.seg", true), ("7.10.seg", true)] {
      let synthetic = SyntheticSegment(processID: 7, startTime: 9, in: directory.path, name: name)
      let error = openingError(synthetic.path)
      #expect((error != nil) == isRefused, "\(name)")
      if let error { #expect(error.what.contains("its header is that of process 7, started at 9")) }
    }
  }

  @Test("what is not there, or not a regular file, is said to be so")
  func notAFile() {
    let path = unusedPath("damage")
    #expect(openingError(path) == .noSuchFile(path: path))
    #expect(openingError("/etc/passwd/segment") == .noSuchFile(path: "/etc/passwd/segment"))
    mkdir(path, 0o700)
    #expect(openingError(path) == .notASegment(path: path, why: "it is a directory"))
    rmdir(path)
    mkfifo(path, 0o600)
    #expect(openingError(path) == .notASegment(path: path, why: "it is not a regular file"))
    unlink(path)
    let synthetic = SyntheticSegment()
    symlink(synthetic.path, path)
    #expect(openingError(path) == .notASegment(path: path, why: "it is a symbolic link"))
    unlink(path)
    #expect(openingError("/dev/null") == .notASegment(path: "/dev/null", why: "it is not a regular file"))
  }

  @Test("a file that the caller may not read", .enabled(if: geteuid() != 0))
  func notPermitted() {
    let synthetic = SyntheticSegment()
    chmod(synthetic.path, 0)
    #expect(openingError(synthetic.path) == .notPermitted(path: synthetic.path))
  }

  @Test("a segment whose magic is still zero is half-written")
  func halfWritten() {
    let synthetic = SyntheticSegment(publish: false)
    #expect(openingError(synthetic.path) == .halfWritten(path: synthetic.path))
    synthetic.publish()
    #expect(openingError(synthetic.path) == nil)
  }

  @Test("text, and random bytes of every length up to 300, are not segments")
  func randomBytes() {
    var generator = RandomNumbers(seed: 11)
    #expect(withFile(Array("#!/bin/sh\n".utf8)) { openingError($0) }.isNotASegment)
    for length in 1...300 {
      var bytes = (0..<length).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      bytes[0] |= 0x80  // not the first byte of the magic, nor zero
      #expect(withFile(bytes) { openingError($0) }.isNotASegment)
    }
  }

  @Test("random bytes behind a right magic and version are refused")
  func randomHeader() {
    var generator = RandomNumbers(seed: 12)
    for _ in 0..<2000 {
      var bytes = (0..<8192).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      withUnsafeBytes(of: ALLOCS_MAGIC) { bytes.replaceSubrange(0..<8, with: $0) }
      withUnsafeBytes(of: ALLOCS_LAYOUT_VERSION) { bytes.replaceSubrange(8..<12, with: $0) }
      if generator.next() & 1 == 0 {
        withUnsafeBytes(of: UInt32(MemoryLayout<allocs_header>.size)) { bytes.replaceSubrange(12..<16, with: $0) }
        withUnsafeBytes(of: UInt64(8192)) { bytes.replaceSubrange(16..<24, with: $0) }
      }
      #expect(withFile(bytes) { openingError($0) } != nil)
    }
  }

  @Test("a file cut to any length is truncated: each in the first pages, then around each page, then by the arena")
  func truncation() {
    let synthetic = furnished()
    #expect(openingError(synthetic.path) == nil)
    let arenas = Int(synthetic.section(Int(ALLOCS_SECTION_ARENAS.rawValue)).pointee.offset)
    var lengths = Set(0...2 * 4096)
    for page in stride(from: 0, through: arenas + 8 * 4096, by: 4096) { lengths.formUnion([page - 1, page, page + 1]) }
    for length in stride(from: arenas, to: synthetic.size, by: 1_234_567) { lengths.insert(length) }
    lengths.insert(synthetic.size - 1)
    var wrong: [Int] = []
    for length in lengths.sorted(by: >) where length >= 0 {
      truncate(synthetic.path, off_t(length))
      guard openingError(synthetic.path)?.what.contains("it is cut short") == true else {
        wrong.append(length)
        continue
      }
    }
    #expect(wrong == [])
  }

  @Test("each bit of the header flipped: an error where the file's shape depends on it, else harmless answers")
  func bitFlips() {
    let synthetic = furnished()
    let bytes = synthetic.start.assumingMemoryBound(to: UInt8.self)
    let shape = 0..<24  // magic, version, sizes
    let sections = MemoryLayout<allocs_header>.offset(of: \.sections)!
    var accepted: [Int] = []
    for bit in 0..<MemoryLayout<allocs_header>.size * 8 {
      let place = bit / 8
      // Each byte once where nothing depends on the place: counters and the command's text.
      if place >= MemoryLayout<allocs_header>.offset(of: \.command)!, bit % 8 != 0 { continue }
      bytes[place] ^= 1 << UInt8(bit % 8)
      let error = openingError(synthetic.path)
      bytes[place] ^= 1 << UInt8(bit % 8)
      let field = (place - sections) % 32
      let isSection =
        place >= sections && place < sections + Int(ALLOCS_SECTION_SPACE) * 32
        && synthetic.section((place - sections) / 32).pointee.capacity > 0
      if shape.contains(place) || isSection && field < 16, error == nil { accepted.append(bit) }
    }
    #expect(accepted == [])
    #expect(openingError(synthetic.path) == nil)
  }

  @Test("random bytes in every table and in an arena lead nowhere", arguments: [1, 2, 3] as [UInt64])
  func randomTables(seed: UInt64) throws {
    let synthetic = furnished()
    var generator = RandomNumbers(seed: seed)
    let arena = synthetic.arena(ofRegion: Int(UInt64(0x5555_0000_0000) >> 26))
    let tables = Int(synthetic.section(Int(ALLOCS_SECTION_ARENAS.rawValue)).pointee.offset)
    let words = synthetic.start.assumingMemoryBound(to: UInt64.self)
    for index in 4096 / 8..<tables / 8 { words[index] = generator.next() }
    for index in 0..<Int(ALLOCS_SECTION_SPACE) { synthetic.section(index).pointee.used = generator.next() }
    let arenaWords = arena.assumingMemoryBound(to: UInt64.self)
    for index in 1..<(2 * 4096 + 100_000) / 8 { arenaWords[index] = generator.next() }
    // The directory's way to this arena stays, so that its slots are read.
    let region = Int(UInt64(0x5555_0000_0000) >> 26)
    synthetic.entries(ALLOCS_SECTION_DIRECTORY, as: UInt32.self)[region] = 1
    #expect(openingError(synthetic.path) == nil)
  }

  @Test("a cut below what is mapped breaks the segment, not the reader", arguments: [0, 4096, 9_000_000, 20_000_000])
  func cutWhileMapped(length: Int) throws {
    let synthetic = furnished()
    let segment = try Segment(path: synthetic.path)
    #expect(segment.allocation(containing: 0x5555_0000_0080)?.size == 1)
    try segment.checkIntact()
    truncate(synthetic.path, off_t(length))
    #expect(throws: Complaint.self) { try segment.checkIntact() }
    askEverything(segment)
    #expect(throws: Complaint.self) { try segment.checkIntact() }
    // Nothing lies above, where reading would meet the cut.
    #expect(segment.isBroken || length >= 9_000_000)
  }

  @Test("a cut that is undone in time is still noticed once it was met")
  func cutAndGrown() throws {
    let synthetic = furnished()
    let segment = try Segment(path: synthetic.path)
    truncate(synthetic.path, 8192)
    _ = segment.totals()
    truncate(synthetic.path, off_t(synthetic.size))
    #expect(segment.isBroken == true)
    #expect(throws: Complaint.self) { try segment.checkIntact() }
  }

  @Test("a file overwritten while it is mapped is noticed")
  func overwritten() throws {
    let synthetic = furnished()
    let segment = try Segment(path: synthetic.path)
    synthetic.header.pointee.magic = 0
    #expect(throws: Complaint.self) { try segment.checkIntact() }
  }

  @Test("a file cut again and again under several readers")
  func cutUnderReaders() async throws {
    let synthetic = furnished()
    let segment = try SharedSegment(path: synthetic.path)
    let other = furnished()
    let untouched = try SharedSegment(path: other.path)
    await withTaskGroup { group in
      for _ in 0..<3 {
        group.addTask { for _ in 0..<20 { askEverything(segment.segment) } }
      }
      group.addTask {
        for length in stride(from: synthetic.size, through: 0, by: -1_000_003) {
          truncate(synthetic.path, off_t(length))
        }
      }
    }
    askEverything(segment.segment)
    #expect(segment.segment.isBroken == true)
    #expect(untouched.segment.isBroken == false)
    #expect(untouched.segment.totals().count == 1000)
  }
}

extension Complaint? {
  var isNotASegment: Bool { self?.what.contains("it is not a segment") == true }
}
