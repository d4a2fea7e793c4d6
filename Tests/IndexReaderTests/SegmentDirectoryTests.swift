// SPDX-License-Identifier: Apache-2.0
// Which files are listed, which process they belong to, and which are swept away.

import CLibrary
import Glibc
import IndexReader
import SharedLayout
import TestSupport
import Testing

/// A directory of its own, removed with all that is in it.
private final class Directory {
  let path: String
  private var segments: [SyntheticSegment] = []

  init() {
    path = unusedPath("directory")
    precondition(mkdir(path, 0o700) == 0)
  }

  @discardableResult
  func add(_ processID: Int32, _ startTime: UInt64) -> String {
    let segment = SyntheticSegment(
      processID: processID, startTime: startTime, in: path,
      name: SegmentFile.name(processID: processID, startTime: startTime))
    segment.unmap()
    segments.append(segment)
    return segment.path
  }

  /// Segments of ended processes that were last written long ago, in the order of their start times.
  func addAged(_ startTimes: ClosedRange<UInt64>) {
    for startTime in startTimes {
      let path = add(nobody, startTime)
      var times = [
        timespec(tv_sec: Int(startTime) * 1000, tv_nsec: 0), timespec(tv_sec: Int(startTime) * 1000, tv_nsec: 0),
      ]
      utimensat(AT_FDCWD, path, &times, 0)
    }
  }

  func touch(_ name: String) { close(open(path + "/" + name, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)) }

  func has(_ name: String) -> Bool {
    var status = stat()
    return lstat(path + "/" + name, &status) == 0
  }

  deinit {
    segments = []
    if let stream = opendir(path) {
      while let entry = readdir(stream) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if unlink(path + "/" + name) != 0 { rmdir(path + "/" + name) }
      }
      closedir(stream)
    }
    rmdir(path)
  }
}

/// Above the largest process id that Linux hands out (2^22).
private let nobody: Int32 = 5_000_000

@Suite("Segment directory", .bounded)
struct SegmentDirectoryTests {
  @Test("segments are listed with their process's state; other files, links, pipes and directories are not")
  func list() throws {
    let directory = Directory()
    let start = try #require(ownStartTime())
    directory.add(getpid(), start)
    directory.add(getpid(), start - 1)
    directory.add(nobody, 17)
    for name in [
      "readme", "1.2", "1.2.ctl", "1.2.seg.bak", "01.2.seg", "+1.2.seg", "-1.2.seg", "0.2.seg", "1.x.seg", "1..seg",
      ".seg",
    ] {
      directory.touch(name)
    }
    symlink(directory.path + "/\(nobody).17.seg", directory.path + "/77.1.seg")
    mkfifo(directory.path + "/77.2.seg", 0o600)
    mkdir(directory.path + "/77.3.seg", 0o700)
    let files = try SegmentDirectory.list(in: [directory.path, "/nonexistent"])
    #expect(files.map(\.processID) == [getpid(), getpid(), nobody])
    #expect(files.map(\.startTime) == [start - 1, start, 17])
    #expect(files.map(\.isLive) == [false, true, false])
    #expect(files.allSatisfy { $0.ownerID == geteuid() && $0.allocatedBytes >= 4096 && $0.modified > 0 })
  }

  @Test("a process id leads to the running process, else to the newest dead one")
  func find() throws {
    let directory = Directory()
    let start = try #require(ownStartTime())
    directory.add(getpid(), start + 10)
    directory.add(getpid(), start)
    directory.add(nobody, 5)
    directory.add(nobody, 9)
    #expect(try SegmentDirectory.find(processID: getpid(), in: [directory.path])?.startTime == start)
    #expect(try SegmentDirectory.find(processID: nobody, in: [directory.path])?.startTime == 9)
    #expect(try SegmentDirectory.find(processID: nobody + 1, in: [directory.path]) == nil)
    #expect(try SegmentDirectory.find(processID: -1, in: [directory.path]) == nil)
  }

  @Test("a file of another user that claims a running process is left out", .enabled(if: geteuid() == 0))
  func impostor() throws {
    let directory = Directory()
    let path = directory.add(getpid(), try #require(ownStartTime()))
    #expect(try SegmentDirectory.list(in: [directory.path]).count == 1)
    chown(path, 12345, 12345)
    #expect(try SegmentDirectory.list(in: [directory.path]).isEmpty)
  }

  @Test("a directory can be given, or the default ones are looked through")
  func searchPaths() async {
    await #expect(processExitsWith: .success) {
      setenv("ALLOCS_DIR", "/some/where", 1)
      #expect(SegmentDirectory.searchPaths == ["/some/where"])
      setenv("ALLOCS_DIR", "", 1)
      let defaults = SegmentDirectory.searchPaths
      #expect(defaults.contains("/run/allocs") && defaults.last == "/dev/shm/allocs")
      unsetenv("ALLOCS_DIR")
      #expect(SegmentDirectory.searchPaths == defaults)
    }
  }
}

@Suite("Endings of processes", .bounded)
struct EndingTests {
  @Test("every wait status is an ending or none, and words tell it")
  func statuses() {
    #expect(ProcessEnding(waitStatus: 0) == .exited(status: 0))
    #expect(ProcessEnding(waitStatus: 255 << 8) == .exited(status: 255))
    #expect(ProcessEnding(waitStatus: 11) == .killed(signal: 11, hasDumpedCore: false))
    #expect(ProcessEnding(waitStatus: 0x86) == .killed(signal: 6, hasDumpedCore: true))
    // Stopped, continued, none at all.
    for status: Int32 in [0x137f, 0xffff, 0x80, 0x10b, -1, 1 << 16] {
      #expect(ProcessEnding(waitStatus: status) == nil)
    }
    #expect(ProcessEnding(waitStatus: 9)?.description == "SIGKILL")
    #expect(ProcessEnding(waitStatus: 0x8b)?.description == "SIGSEGV, core dumped")
    #expect(ProcessEnding(waitStatus: 3 << 8)?.description == "exit status 3")
    #expect(ProcessEnding(waitStatus: 40)?.description == "SIG40")
  }

  private static let attribute = "user.allocs.wait_status"

  private static let areKept: Bool = {
    let directory = Directory()
    return setxattr(directory.add(nobody, 1), attribute, "0", 1, 0) == 0
  }()

  @Test("an ending is noted with the segment that it is of, also with one already found dead", .enabled(if: areKept))
  func noted() throws {
    let directory = Directory()
    let path = directory.add(nobody, 1)
    let file = try #require(try SegmentDirectory.list(in: [directory.path]).first)
    #expect(ProcessEnding(ofSegment: path) == nil)
    for (status, mode): (Int32, mode_t) in [(3 << 8, 0o600), (0x8b, 0o400)] {
      chmod(path, mode)
      let ending = try #require(ProcessEnding(waitStatus: status))
      #expect(ending.note(with: file) == 0)
      #expect(ProcessEnding(ofSegment: path) == ending)
      var found = stat()
      // It is marked dead, so that the file's time of change is the time of the end.
      #expect(lstat(path, &found) == 0 && found.st_mode & 0o777 == 0o400)
    }
    // Another file has taken the name.
    unlink(path)
    directory.touch("\(nobody).1.seg")
    #expect(ProcessEnding.exited(status: 1).note(with: file) == ENOENT)
    #expect(ProcessEnding(ofSegment: path) == nil)
    unlink(path)
    #expect(ProcessEnding.exited(status: 1).note(with: file) == ENOENT)
    symlink("/dev/null", path)
    #expect(ProcessEnding.exited(status: 1).note(with: file) == ELOOP)
  }

  @Test("what is no ending is none, whatever an owner wrote", .enabled(if: areKept))
  func nonsense() throws {
    let directory = Directory()
    let path = directory.add(nobody, 1)
    for text in ["", "x", "-1", "65536", "99999999", "127", "9 ", "0x9", String(repeating: "9", count: 60)] {
      #expect(setxattr(path, Self.attribute, text, text.utf8.count, 0) == 0)
      #expect(ProcessEnding(ofSegment: path) == nil, "\(text)")
    }
  }
}

@Suite("Retention", .bounded)
struct RetentionTests {
  private func now() -> Double { Double(SyntheticSegment.nanoseconds(CLOCK_REALTIME)) / 1e9 }

  @Test(
    "the dead go once they are older than the policy's age, counted from the sweep that found them; the living stay")
  func age() throws {
    let directory = Directory()
    let start = try #require(ownStartTime())
    directory.add(getpid(), start)
    directory.add(nobody, 1)
    directory.touch("\(nobody).1.ctl")
    directory.touch("\(getpid()).\(start).ctl")
    directory.touch("unrelated")
    let policy = RetentionPolicy(maximumAge: 100, maximumBytes: .max)
    // However long the file has lain there, this sweep is the first to know that its process is gone.
    let first = SegmentDirectory.sweep(policy, in: [directory.path], at: now() + 1_000_000)
    #expect(first.removed.isEmpty)
    #expect(first.kept.map(\.processID) == [nobody])
    #expect(SegmentDirectory.sweep(policy, in: [directory.path], at: now() + 90).removed.isEmpty)
    let last = SegmentDirectory.sweep(policy, in: [directory.path], at: now() + 110)
    #expect(last.removed.map(\.processID) == [nobody])
    #expect(last.failed.isEmpty)
    #expect(!directory.has("\(nobody).1.seg"))
    #expect(!directory.has("\(nobody).1.ctl"))
    #expect(directory.has("\(getpid()).\(start).seg"))
    #expect(directory.has("\(getpid()).\(start).ctl"))
    #expect(directory.has("unrelated"))
  }

  @Test("beyond the policy's bytes the oldest dead go first")
  func bytes() throws {
    let directory = Directory()
    directory.addAged(1...5)
    let size = try #require(SegmentDirectory.list(in: [directory.path]).first).allocatedBytes
    let policy = RetentionPolicy(maximumAge: .infinity, maximumBytes: size * 3)
    let result = SegmentDirectory.sweep(policy, in: [directory.path])
    #expect(result.removed.map(\.startTime).sorted() == [1, 2])
    #expect(try SegmentDirectory.list(in: [directory.path]).map(\.startTime) == [3, 4, 5])
    let none = RetentionPolicy(maximumAge: .infinity, maximumBytes: 0)
    #expect(SegmentDirectory.sweep(none, in: [directory.path]).removed.count == 3)
  }

  @Test("beyond the policy's number the oldest dead go first, and the living don't count")
  func count() throws {
    let directory = Directory()
    let start = try #require(ownStartTime())
    directory.add(getpid(), start)
    directory.addAged(1...5)
    func sweep(_ count: UInt64) -> [UInt64] {
      let policy = RetentionPolicy(maximumAge: .infinity, maximumBytes: .max, maximumCount: count)
      return SegmentDirectory.sweep(policy, in: [directory.path]).removed.map(\.startTime).sorted()
    }
    #expect(sweep(5) == [])
    #expect(sweep(2) == [1, 2, 3])
    #expect(sweep(0) == [4, 5])
    #expect(try SegmentDirectory.list(in: [directory.path]).map(\.processID) == [getpid()])
  }

  @Test("a sweep that takes its time marks the dead in the order in which they were last written")
  func markOrder() throws {
    let directory = Directory()
    let own = try #require(ownStartTime())
    directory.add(getpid(), own)
    directory.addAged(1...500)
    #expect(SegmentDirectory.sweep(in: [directory.path]).removed.isEmpty)
    let dead = try SegmentDirectory.list(in: [directory.path]).filter { !$0.isLive }.sorted {
      $0.startTime < $1.startTime
    }
    let states = dead.map { file in
      var status = stat()
      #expect(lstat(file.path, &status) == 0)
      return status
    }
    #expect(states.count == 500 && states.allSatisfy { $0.st_mode & S_IWUSR == 0 })
    let times = states.map { $0.st_ctim.tv_sec * 1_000_000_000 + $0.st_ctim.tv_nsec }
    #expect(times == times.sorted())
  }

  @Test("a link by a segment's name is neither followed nor removed")
  func links() {
    let directory = Directory()
    directory.touch("precious")
    symlink(directory.path + "/precious", directory.path + "/\(nobody).3.seg")
    let all = RetentionPolicy(maximumAge: 0, maximumBytes: 0)
    #expect(SegmentDirectory.sweep(all, in: [directory.path]).removed.isEmpty)
    #expect(directory.has("precious"))
    #expect(directory.has("\(nobody).3.seg"))
  }

  /// An agent's lock of a segment, which lasts as long as the opening of the file by which it was taken.
  private func locking(_ path: String) throws -> Int32 {
    let file = open(path, O_RDWR | O_CLOEXEC)
    var lock = flock(l_type: Int16(F_WRLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 1, l_pid: 0)
    try #require(file >= 0 && fcntl(file, allocs_set_lock_of_opening, &lock) == 0)
    return file
  }

  @Test("a segment that somebody holds is a live process's, in whatever namespace that is, and is not swept away")
  func held() throws {
    let directory = Directory()
    let path = directory.add(nobody, 8)
    let all = RetentionPolicy(maximumAge: 0, maximumBytes: 0, maximumCount: 0)
    let file = try locking(path)
    #expect(try SegmentDirectory.list(in: [directory.path]).map(\.isLive) == [true])
    #expect(try SegmentDirectory.find(processID: nobody, in: [directory.path])?.isLive == true)
    #expect(try Segment(path: path).isProcessAlive)
    #expect(SegmentDirectory.sweep(all, in: [directory.path]).removed.isEmpty)
    #expect(try SegmentDirectory.prune(olderThan: 0, in: [directory.path], ofUser: nil, isTrial: false).removed.isEmpty)
    // A sweep of an earlier version has marked it dead.
    chmod(path, 0o400)
    #expect(SegmentDirectory.sweep(all, in: [directory.path]).removed.isEmpty)
    close(file)
    // A child that another test is just starting has the lock, too, until it runs its program.
    try wait(for: "nobody holds the lock") { try SegmentDirectory.list(in: [directory.path]).map(\.isLive) == [false] }
    #expect(SegmentDirectory.sweep(all, in: [directory.path]).removed.map(\.processID) == [nobody])
  }

  @Test("a segment that another process has mapped as an agent does, without a lock, is not swept away")
  func mapped() throws {
    let directory = Directory()
    let path = directory.add(nobody, 8)
    var child: pid_t = 0
    let script = "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 4096); sys.stdin.read()"
    let words = ["/usr/bin/python3", "-c", script, path]
    let arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    let ends = try makePipe()
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    posix_spawn_file_actions_adddup2(&actions, ends.read, 0)
    try #require(posix_spawn(&child, words[0], &actions, nil, arguments, environ) == 0)
    defer {
      close(ends.read)
      close(ends.write)
      var status: Int32 = 0
      waitpid(child, &status, 0)
    }
    let name = SegmentFile.name(processID: nobody, startTime: 8)
    func isMapped() -> Bool {
      guard let file = fopen("/proc/\(child)/maps", "r") else { return false }
      defer { fclose(file) }
      var line = [CChar](repeating: 0, count: 8192)
      while fgets(&line, Int32(line.count), file) != nil {
        if String(cString: line).contains(name) { return true }
      }
      return false
    }
    try wait(for: "the program has mapped the segment", pause: 1000) { isMapped() }
    let all = RetentionPolicy(maximumAge: 0, maximumBytes: 0, maximumCount: 0)
    let swept = SegmentDirectory.sweep(all, in: [directory.path])
    #expect(swept.removed.isEmpty && swept.kept.map(\.processID) == [nobody])
    #expect(directory.has(name))
  }

  @Test("the start time of a process in another time namespace is known by the header, to within a tick")
  func otherTime() throws {
    let directory = Directory()
    let start = try #require(ownStartTime())
    let segment = SyntheticSegment(
      processID: getpid(), startTime: start + 1_000_000, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: start + 1_000_000))
    func isLive() throws -> Bool? { try SegmentDirectory.find(processID: getpid(), in: [directory.path])?.isLive }
    #expect(try isLive() == false)
    segment.header.pointee.identity = ALLOCS_IDENTITY_CLOCKS.rawValue
    for (offset, isRight) in [
      (10_000_000_000_000, true), (10_000_004_000_000, true), (9_999_996_000_000, true), (10_000_030_000_000, false),
      (0, false), (.max, false), (.min, false),
    ] as [(Int64, Bool)] {
      segment.header.pointee.boottime_offset = offset
      #expect(try isLive() == isRight, "\(offset)")
      #expect(try Segment(path: segment.path).isProcessAlive == isRight, "\(offset)")
    }
    let last = SyntheticSegment(
      processID: getpid(), startTime: .max, in: directory.path,
      name: SegmentFile.name(processID: getpid(), startTime: .max))
    last.header.pointee.identity = ALLOCS_IDENTITY_CLOCKS.rawValue
    last.header.pointee.boottime_offset = .min
    #expect(try !Segment(path: last.path).isProcessAlive)
  }

  @Test("offsets of clocks as the kernel writes them, and what it doesn't write")
  func offsets() {
    let text = "monotonic          -600         0\nboottime          86400 500000000\n"
    #expect(ClockOffsets(text: text) == ClockOffsets(monotonic: -600_000_000_000, boottime: 86_400_500_000_000))
    // Negative, with nanoseconds that are not: half a second below zero.
    #expect(ClockOffsets(text: "monotonic -1 500000000\nboottime 0 0\n")?.monotonic == -500_000_000)
    for nonsense in [
      "", "monotonic 1 1", "monotonic x 0\nboottime 0 0", "monotonic 9223372036854775807 0\nboottime 0 0",
    ] {
      #expect(ClockOffsets(text: nonsense) == nil, "\(nonsense)")
    }
  }

  @Test(
    "a server's mark says who sweeps a directory while the server has it; another user's file by that name says nothing"
  )
  func marks() throws {
    let directory = Directory()
    func keeps() -> Bool {
      directory.add(nobody, 8)
      SegmentDirectory.sweepUnlessServed(
        RetentionPolicy(maximumAge: 0, maximumBytes: 0, maximumCount: 0), in: [directory.path])
      return directory.has(SegmentFile.name(processID: nobody, startTime: 8))
    }
    #expect(!keeps())
    do {
      guard let mark = SweeperMark(in: directory.path) else {
        Issue.record("no mark")
        return
      }
      #expect(keeps())
      let isInPlace = mark.isInPlace
      #expect(isInPlace)
      unlink("\(directory.path)/\(SegmentFile.name(processID: nobody, startTime: 8))")
    }
    #expect(!directory.has("allocsd.\(geteuid()).sweeps"))
    // A server that was killed has left its mark without holding it.
    directory.touch("allocsd.\(geteuid()).sweeps")
    #expect(!keeps())
    if geteuid() == 0 {
      chown("\(directory.path)/allocsd.0.sweeps", 12_345, 12_345)
      #expect(!keeps())
      let isMarked = SweeperMark(in: directory.path)?.isInPlace
      #expect(isMarked == true)
    }
  }

  @Test("a marked segment can still be read")
  func marked() throws {
    let directory = Directory()
    let path = directory.add(nobody, 8)
    SegmentDirectory.sweep(in: [directory.path])
    #expect(try Segment(path: path).startTime == 8)
  }
}
