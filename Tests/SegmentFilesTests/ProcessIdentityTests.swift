// SPDX-License-Identifier: Apache-2.0
// Claims about a process that don't belong together: which of them make an identity, and what is told by those that
// don't.

import COpening
import Glibc
import SegmentFiles
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@Suite("Identity of processes", .bounded)
struct ProcessIdentityTests {
  private static let stranger: UInt32 = 12_345

  private func ownStart() throws -> UInt64 { try #require(startTime(of: getpid())) }

  private func segment(_ processID: Int32, _ start: UInt64, in directory: TestDirectory) -> SyntheticSegment {
    SyntheticSegment(
      processID: processID, startTime: start, in: directory.path,
      name: SegmentFile.name(processID: processID, startTime: start))
  }

  private func identity(_ path: String) throws(Complaint) -> ProcessIdentity {
    try ProcessIdentity(of: OpenFile(path: path), path: path)
  }

  /// The words of the refusal; nil if an identity was made.
  private func refusal(_ path: String) -> String? {
    do throws(Complaint) {
      _ = try identity(path)
      return nil
    } catch {
      return error.what
    }
  }

  /// A process of another user, and its start time.
  private func foreignProcess() throws -> (process: ChildProcess, start: UInt64) {
    let process = try ChildProcess(
      OtherUsers.command(as: "\(Self.stranger)") + ["sh", "-c", "echo ready; cat"],
      environment: ChildProcess.baseEnvironment, conversing: true)
    _ = try process.readLines(until: "ready")
    return (process, try #require(startTime(of: process.pid)))
  }

  @Test("all claims of a segment of one's own belong together, and lead to the process")
  func own() throws {
    let directory = try TestDirectory()
    let own = segment(getpid(), try ownStart(), in: directory)
    let identity = try identity(own.path)
    #expect(identity.processID == getpid() && identity.ownerID == geteuid() && identity.isAlive)
    #expect(try ProcessDirectory(of: identity).line("comm").isEmpty == false)
  }

  @Test("a name that names another process than the header does is refused")
  func name() throws {
    let directory = try TestDirectory()
    for name in ["1.1.seg", "\(getpid()).1.seg", "1.\(try ownStart()).seg"] {
      let lying = SyntheticSegment(
        processID: getpid(), startTime: try ownStart(), in: directory.path, name: name)
      #expect(try #require(refusal(lying.path)).contains("its header is that of process \(getpid())"))
    }
  }

  @Test("what changes in the header after the file was opened changes nothing")
  func headerIsReadOnce() throws {
    let directory = try TestDirectory()
    let lying = segment(getpid(), try ownStart(), in: directory)
    let file = try OpenFile(path: lying.path)
    lying.header.pointee.pid = 1
    lying.header.pointee.start_time = 1
    lying.header.pointee.identity = ALLOCS_IDENTITY_CLOCKS.rawValue
    lying.header.pointee.boottime_offset = 5_000_000_000
    let identity = try ProcessIdentity(of: file, path: lying.path)
    #expect(identity.processID == getpid() && identity.offsets == nil)
    #expect(identity.startTime == (try ownStart()))
  }

  @Test(
    "a user's file that claims another user's process is refused, by its offsets of clocks, too", .enabled(if: isRoot))
  func claimOfAnother() throws {
    let directory = try TestDirectory()
    let own = segment(getpid(), try ownStart(), in: directory)
    let shifted = segment(getpid(), try ownStart() + 1000, in: directory)
    shifted.header.pointee.identity = ALLOCS_IDENTITY_CLOCKS.rawValue
    shifted.header.pointee.boottime_offset = 1000 * 10_000_000
    chmod(directory.path, 0o1777)
    for lying in [own, shifted] {
      #expect(refusal(lying.path) == nil)
      chown(lying.path, Self.stranger, Self.stranger)
      #expect(try #require(refusal(lying.path)).contains("process \(getpid()) is user 0's"))
    }
    #expect(try SegmentDirectory.list(in: [directory.path]).isEmpty)
    #expect(SegmentDirectory.ignored(processID: getpid(), in: [directory.path]).map(\.reason) == [.foreign, .foreign])
  }

  @Test(
    "root's file may be of anybody's process, which root's programs become; a third user's may not",
    .enabled(if: isRoot))
  func droppedPrivileges() throws {
    let (process, start) = try foreignProcess()
    let directory = try TestDirectory()
    chmod(directory.path, 0o1777)
    let made = segment(process.pid, start, in: directory)
    let identity = try identity(made.path)
    #expect(identity.ownerID == 0 && identity.isAlive)
    #expect(try ProcessDirectory(of: identity).stat().startTime == start)
    chown(made.path, Self.stranger, Self.stranger)
    #expect(refusal(made.path) == nil)
    chown(made.path, Self.stranger + 1, Self.stranger + 1)
    #expect(try #require(refusal(made.path)).contains("is user \(Self.stranger)'s"))
    withExtendedLifetime(process) {}
  }

  @Test(
    "a process that ended and whose number another user's process has got is not that process", .enabled(if: isRoot))
  func reused() throws {
    let (process, start) = try foreignProcess()
    let directory = try TestDirectory()
    // Of root, with a start time that the process has not.
    let made = segment(process.pid, start &- 1, in: directory)
    let identity = try identity(made.path)
    #expect(!identity.isAlive)
    #expect(throws: ProcError(number: ESRCH)) { _ = try ProcessDirectory(of: identity) }
    withExtendedLifetime(process) {}
  }

  @Test("a file with a second name is no segment: nothing is read of it, and its mode stays")
  func hardLink() throws {
    let directory = try TestDirectory()
    let victim = try directory.write("precious", to: "victim")
    chmod(victim, 0o666)
    let names = ["1.1.seg", SegmentFile.name(processID: getpid(), startTime: try ownStart())]
    for name in names { #expect(link(victim, directory.file(name)) == 0) }
    #expect(try SegmentDirectory.list(in: [directory.path]).isEmpty)
    #expect(try #require(refusal(directory.file(names[0]))).contains("several names"))
    let all = RetentionPolicy(maximumAge: 0, maximumBytes: 0, maximumCount: 0)
    #expect(SegmentDirectory.sweep(all, in: [directory.path]).removed.isEmpty)
    var status = stat()
    #expect(stat(victim, &status) == 0 && status.st_mode & 0o777 == 0o666 && status.st_nlink == 3)
    // A segment that got its second name after it was found.
    let path = segment(1_000_000_007, 3, in: directory).path
    let own = segment(1_000_000_008, 3, in: directory)
    _ = path
    let file = try #require(try SegmentDirectory.list(in: [directory.path]).first { $0.processID == 1_000_000_008 })
    #expect(link(own.path, directory.file("second")) == 0)
    #expect(ProcessEnding.exited(status: 1).note(with: file) == EINVAL)
  }

  @Test("a look that waits for nobody tells what lstat does, by a path and by a name in a directory")
  func look() throws {
    let directory = try TestDirectory()
    _ = try directory.write(String(repeating: "x", count: 5000), to: "file")
    symlink("file", directory.file("link"))
    symlink("nothing", directory.file("dangling"))
    mkfifo(directory.file("pipe"), 0o640)
    chown(directory.file("pipe"), geteuid() == 0 ? 70_000 : geteuid(), getegid())
    let opened = open(directory.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(opened) }
    let names = ["file", "link", "dangling", "pipe", "."]
    let looks: [(path: String, found: [stat?])] =
      names.map { (directory.file($0), [ownStatus(of: directory.file($0)), ownStatus(of: $0, in: opened)]) }
      + ["/", "/dev/null", "/etc/passwd"].map { ($0, [ownStatus(of: $0)]) }
    for look in looks {
      var wanted = stat()
      try #require(lstat(look.path, &wanted) == 0)
      for found in look.found {
        let found = try #require(found, "\(look.path)")
        #expect(FileNumber(found) == FileNumber(wanted), "\(look.path)")
        #expect(found.st_mode == wanted.st_mode && found.st_uid == wanted.st_uid && found.st_gid == wanted.st_gid)
        #expect(found.st_nlink == wanted.st_nlink && found.st_size == wanted.st_size)
        #expect(found.st_blocks == wanted.st_blocks)
        #expect(found.st_mtim.tv_sec == wanted.st_mtim.tv_sec && found.st_mtim.tv_nsec == wanted.st_mtim.tv_nsec)
        #expect(found.st_ctim.tv_sec == wanted.st_ctim.tv_sec && found.st_ctim.tv_nsec == wanted.st_ctim.tv_nsec)
      }
    }
    #expect(ownStatus(of: directory.file("none")) == nil && ownStatus(of: "none", in: opened) == nil)
  }

  @Test("names in a directory are opened in it and nowhere else")
  func names() throws {
    let directory = try TestDirectory()
    let inner = try directory.directory("inner")
    _ = try directory.write("outside", to: "outside")
    symlink("../outside", inner + "/link")
    let opened = open(inner, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(opened) }
    #expect(allocs_open_in(opened, "link", O_RDONLY) == -ELOOP)
    for name in ["..", ".", "../outside", "/etc/passwd", "a/b"] {
      #expect(allocs_open_in(opened, name, O_RDONLY) == -EINVAL, "\(name)")
    }
    #expect(allocs_open_in(opened, "", O_RDONLY) == -ENOENT)
  }
}

@Suite("Descriptors of identities", .bounded)
struct IdentityDescriptorTests {
  /// What the first few descriptors of this process lead to.
  private static var open: [Int32: String] {
    var open: [Int32: String] = [:]
    for number: Int32 in 0..<64 {
      let target = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { buffer in
        let size = readlink("/proc/self/fd/\(number)", buffer.baseAddress!, buffer.count)
        return size > 0 ? String(decoding: buffer[..<size].map { UInt8(bitPattern: $0) }, as: UTF8.self) : nil
      }
      open[number] = target
    }
    return open
  }

  /// Those that are open for as long as this process runs, as far as can be told: a hundred looks see them.
  private static var lasting: [Int32: String] {
    (0..<100).reduce(open) { seen, _ in
      let now = open
      return seen.filter { now[$0.key] == $0.value }
    }
  }

  /// Waits until all those descriptors are as they were, and no file or directory is open besides. The libraries of the
  /// tests may open a queue or a timer meanwhile, and read a file.
  private static func waitForBalance(_ before: [Int32: String], _ path: String) throws {
    try wait(for: "the descriptors are as they were: \(path)") {
      let now = open
      return before.allSatisfy { now[$0.key] == $0.value }
        && now.allSatisfy { before[$0.key] != nil || !$0.value.hasPrefix("/") }
    }
  }

  @Test("whether an identity, a directory or a file is made or refused, no descriptor is left, and no other one closed")
  func balance() async {
    await #expect(processExitsWith: .success) {
      let directory = try TestDirectory()
      let start = try #require(startTime(of: getpid()))
      func add(_ processID: Int32, _ start: UInt64) -> SyntheticSegment {
        SyntheticSegment(
          processID: processID, startTime: start, in: directory.path,
          name: SegmentFile.name(processID: processID, startTime: start))
      }
      let own = add(getpid(), start)
      let dead = add(1_000_000_000, 5)
      let ended = add(getpid(), start &+ 10_000_000)
      let half = SyntheticSegment(processID: 6, startTime: 1, in: directory.path, name: "6.1.seg", publish: false)
      symlink(own.path, directory.file("7.1.seg"))
      mkfifo(directory.file("8.1.seg"), 0o600)
      link(dead.path, directory.file("linked.seg"))
      let before = IdentityDescriptorTests.lasting
      let paths =
        [own.path, dead.path, ended.path, half.path]
        + ["7.1.seg", "8.1.seg", "9.1.seg", "linked.seg"].map(directory.file) + [
          "/nonexistent/1.1.seg", "/etc/passwd/x",
        ]
      for path in paths {
        if let file = try? OpenFile(path: path) {
          if let identity = try? ProcessIdentity(of: file, path: path) {
            _ = try? ProcessDirectory(of: identity).line("comm")
            _ = ProcessDirectory(elsewhere: identity)?.processID
            _ = (identity.isAlive, identity.clockOffsets, identity.startTimeHere)
          }
        }
        _ = try? SegmentDirectory.file(at: path)
        _ = ProcessEnding(ofSegment: path)
        try IdentityDescriptorTests.waitForBalance(before, path)
      }
      for path in [
        directory.path, "/nonexistent", "/run/allocs/12345", "/dev/shm/allocs-12345", "/run/user/12345/allocs",
      ] {
        _ = (try? CheckedDirectory(path: path))?.ownerID
        _ = try SegmentDirectory.survey(in: [path])
        _ = SegmentDirectory.ignored(processID: 7, in: [path])
        SegmentDirectory.sweep(in: [path], at: 0)
        try IdentityDescriptorTests.waitForBalance(before, path)
      }
      withExtendedLifetime((own, dead, ended, half)) {}
    }
  }
}

@Suite("Files of many users", .bounded)
struct FilesOfManyTests {
  private static let nobody: Int32 = 1_000_000_000

  @Test("of very many segments of an owner the newest are listed, and the others counted")
  func flood() throws {
    let directory = try TestDirectory()
    let most = SegmentDirectory.mostOfOwner
    for number in 1...most + 50 {
      let name = SegmentFile.name(processID: Self.nobody, startTime: UInt64(number))
      directory.touch(name, modified: number <= 50 ? 1000 : nil)
    }
    let survey = try SegmentDirectory.survey(in: [directory.path])
    #expect(survey.files.count == most && survey.omitted == [geteuid(): 50] && survey.unread == 0)
    #expect(survey.files.first?.startTime == 51)
    #expect(try SegmentDirectory.find(processID: Self.nobody, in: [directory.path])?.startTime == UInt64(most + 50))
  }

  @Test("a flood of one user's files removes nothing of another's, and hides nothing", .enabled(if: isRoot))
  func quotas() throws {
    let directory = try TestDirectory()
    chmod(directory.path, 0o1777)
    let victims = (1...2).map { number in
      directory.touch(
        SegmentFile.name(processID: Self.nobody, startTime: UInt64(number)), modified: 1000, owner: 12_345)
    }
    for number in 10...40 {
      directory.touch(SegmentFile.name(processID: Self.nobody, startTime: UInt64(number)), owner: 12_346)
    }
    let policy = RetentionPolicy(maximumAge: .infinity, maximumBytes: .max, maximumCount: 3)
    #expect(SegmentDirectory.sweep(policy, in: [directory.path]).removed.count == 28)
    for path in victims { #expect(access(path, F_OK) == 0) }
    // Nobody wrote a header there: such files count, and are the one's whose they are.
    #expect(SegmentDirectory.sweep(policy, in: [directory.path], ofUser: 12_345).removed.isEmpty)
  }

  @Test("processes that ended in order make room before those that did not")
  func exited() throws {
    let directory = try TestDirectory()
    let segments = (1...6).map { number in
      let segment = SyntheticSegment(
        processID: Self.nobody, startTime: UInt64(number), in: directory.path,
        name: SegmentFile.name(processID: Self.nobody, startTime: UInt64(number)))
      var times = [timespec(tv_sec: 1000 * number, tv_nsec: 0), timespec(tv_sec: 1000 * number, tv_nsec: 0)]
      utimensat(AT_FDCWD, segment.path, &times, 0)
      if number > 1 { segment.header.pointee.state = ALLOCS_STATE_EXITED.rawValue }
      segment.unmap()
      return segment
    }
    let policy = RetentionPolicy(maximumAge: .infinity, maximumBytes: .max, maximumCount: 5, maximumExited: 2)
    let removed = SegmentDirectory.sweep(policy, in: [directory.path]).removed.map(\.startTime)
    #expect(removed.sorted() == [2, 3, 4])
    withExtendedLifetime(segments) {}
  }

  @Test("a path is one of the places of users, or none of them")
  func places() {
    for place in SharedDirectories.Place.own(ofUser: 7) + [.common, .former] {
      #expect(SharedDirectories.Place(path: place.path) == place)
    }
    #expect(
      SharedDirectories.Place.own(ofUser: 1000).map(\.path) == [
        "/run/allocs/1000", "/run/user/1000/allocs", "/dev/shm/allocs-1000",
      ])
    for path in ["/dev/shm/allocs-07", "/dev/shm/allocs-", "/run/allocs/", "/run/allocs/4294967296", "/run/allocs/7/x"]
    {
      #expect(SharedDirectories.Place(path: path) == nil, "\(path)")
    }
  }
}

let isRoot = geteuid() == 0

/// Field 22 of /proc/PID/stat.
func startTime(of processID: Int32) -> UInt64? {
  let file = open("/proc/\(processID)/stat", O_RDONLY | O_CLOEXEC)
  guard file >= 0 else { return nil }
  defer { close(file) }
  let text = [UInt8](unsafeUninitializedCapacity: 1024) { buffer, count in
    count = max(0, read(file, buffer.baseAddress, buffer.count))
  }
  return ProcessStat(text)?.startTime
}
