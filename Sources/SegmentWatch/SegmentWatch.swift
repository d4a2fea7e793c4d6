// SPDX-License-Identifier: Apache-2.0
// The segments of all users, as the broker knows them: names, owners and states of files, never what is in them. The
// broker notes with each segment how its process ended, as that segment's owner, and removes segments of ended
// processes by the retention policy.

import CProcessEnds
import Glibc
import SegmentFiles
import SystemAccess

/// Follows the directories of segments.
public struct SegmentWatch: ~Copyable {
  /// Segments as of the last look, and what happened since the start.
  public struct Counts: Sendable {
    public var live: UInt64 = 0
    public var dead: UInt64 = 0
    public var bytes: UInt64 = 0
    public var removed: UInt64 = 0
    public var endingsUnknown: UInt64 = 0
  }

  public private(set) var counts = Counts()
  private let retention: RetentionPolicy
  private let log: Log
  private var endings: Endings
  private var threadEnds: ThreadEnds?
  private var changes: DirectoryWatcher?
  private var marks = SweeperMarks()
  /// The segments of running processes, by path.
  public private(set) var live: [String: SegmentFile] = [:]
  /// The paths of the segments of ended processes. Nil before the first look: of processes that ended before it, nobody
  /// asks how.
  private var dead: Set<String>?
  /// The files (by path and inode) whose processes the broker itself saw running.
  private var seenAlive: Set<FileKey> = []

  private struct FileKey: Hashable {
    var path: String
    var inode: UInt64
  }

  /// `watchLimit`: processes of which it is learnt how they end, at a time.
  public init(retention: RetentionPolicy, watchLimit: Int, log: Log) throws(Complaint) {
    self.retention = retention
    self.log = log
    endings = try Endings(limit: watchLimit)
    allocs_prefer_latency()
    // The messages of the kernel's process connector come to root alone.
    threadEnds = ThreadEnds()
    let directories = SegmentDirectory.searchPaths
    do throws(Complaint) {
      // Root follows the directories of all users, which their programs make there.
      let isOfAll = geteuid() == 0 && getenv("ALLOCS_DIR") == nil
      changes = try DirectoryWatcher(directories, parents: isOfAll ? ["/dev/shm", "/run/user"] : [])
      log(.info, "watching for segments", ("directories", directories.joined(separator: " ")))
    } catch {
      log(.warning, "\(error); segments are noticed every now and then only")
      changes = nil
    }
    descriptors = [endings.descriptor, changes?.descriptor ?? -1].filter { $0 >= 0 }
  }

  /// The descriptors that are readable when there is something to look at.
  public let descriptors: [Int32]

  /// Takes the changes of directories that have come, and opens each process that has appeared, at once; of very many,
  /// those beyond are left to the next look. Returns the owners of the segments that have appeared.
  public mutating func takeChanges() -> Set<UInt32> {
    var owners: Set<UInt32> = []
    var arrivals = 0
    for change in changes?.changes() ?? [] {
      guard case .appeared(let path) = change, path.hasSuffix(".seg"), arrivals < 256 else { continue }
      arrivals += 1
      if let file = endings.watchArrival(path) { owners.insert(file.ownerID) }
    }
    return owners
  }

  /// Compares the segments with those of the last look, and sweeps. Returns the owners of processes that have begun or
  /// ended.
  public mutating func look() -> Set<UInt32> {
    let directories = SegmentDirectory.searchPaths
    changes?.watch(directories)
    marks.renew(in: directories)
    threadEnds?.take()
    var owners: Set<UInt32> = []
    for (file, ending) in endings.ended() {
      note(ending ?? threadEnds?.ending(of: file), file)
      owners.insert(file.ownerID)
    }
    var removed: [SegmentFile] = []
    var failed: [String: String] = [:]
    for path in directories {
      // In a user's own directory the user's rights are enough, and root's may not be.
      guard let directory = try? CheckedDirectory(path: path) else { continue }
      asUser(directory.isShared ? 0 : directory.ownerID) {
        let result = SegmentDirectory.sweep(retention, in: [path])
        removed += result.removed
        failed.merge(result.failed) { $1 }
      }
    }
    for file in removed { log(.info, "removed the segment of a dead process", Self.words(file)) }
    counts.removed += UInt64(removed.count)
    for (path, why) in failed {
      log(.warning, "cannot remove the segment of a dead process: \(why)", ("segment", path))
    }

    let files: [SegmentFile]
    do {
      files = try SegmentDirectory.list()
    } catch {
      // What is known stays as it is: processes have not ended because nobody could look.
      log(.warning, "\(error)")
      return owners
    }
    let running = files.filter(\.isLive)
    // A program that replaces itself by exec makes another file with the same name.
    for file in running where live[file.path]?.inode != file.inode {
      log(.info, "process is indexed", Self.words(file), ("pid", "\(file.processID)"))
      owners.insert(file.ownerID)
      guard mayBeNoted(file) else { continue }
      switch endings.watch(file) {
      case nil: break
      case .tooMany?: missed("cannot learn how the process ends", .tooMany, file)
      case .gone?:
        // A live process that can't be seen here runs in a pid namespace that this namespace does not hold.
        let isLive = (try? SegmentDirectory.file(at: file.path))?.isLive == true
        if !isLive, let ending = threadEnds?.ending(of: file) {
          note(ending, file)
        } else {
          missed("how the process ends is not known", isLive ? .notVisible : .notSeen, file)
        }
      case .system(let code)?:
        missed("cannot learn how the process ends: \(systemWords(code))", .notTold, file)
      }
    }
    let ended = files.filter { !$0.isLive }
    for file in ended where live[file.path] != nil {
      owners.insert(file.ownerID)
      let ending = ProcessEnding(ofSegment: file.path).map { "\($0)" } ?? "unknown"
      log(.info, "process ended", ("pid", "\(file.processID)"), Self.words(file), ("ending", ending))
    }
    // Processes that ended since the last look and were not watched.
    if let known = dead {
      for file in ended
      where !known.contains(file.path) && mayBeNoted(file) && !endings.isWatching(file.path)
        && ProcessEnding(ofSegment: file.path) == nil
      {
        if let ending = threadEnds?.ending(of: file) {
          note(ending, file)
        } else if UnknownEnding(ofSegment: file.path) == nil {
          missed("how the process ended is not known", .notSeen, file)
        }
      }
    }
    let present = Set(files.lazy.map { FileKey(path: $0.path, inode: $0.inode) })
    seenAlive = seenAlive.intersection(present).union(running.lazy.map { FileKey(path: $0.path, inode: $0.inode) })
    dead = Set(ended.lazy.map(\.path))
    live = Dictionary(running.lazy.map { ($0.path, $0) }) { $1 }
    counts.live = UInt64(running.count)
    counts.dead = UInt64(ended.count)
    counts.bytes = files.reduce(0) { $0 &+ $1.allocatedBytes }
    return owners
  }

  /// The owner of the segment of process `id`; nil if there is none.
  public func owner(ofProcess id: Int32, startTime: UInt64?) -> UInt32? {
    let files = ((try? SegmentDirectory.all(ofProcess: id)) ?? []).filter {
      startTime == nil || $0.startTime == startTime
    }
    return SegmentDirectory.preferred(of: files) {
      seenAlive.contains(FileKey(path: $0.path, inode: $0.inode))
    }?.ownerID
  }

  /// The live process `id` of user `owner`, if it is the one with this start time and this file.
  public func process(_ id: Int32, startTime: UInt64, inode: UInt64, of owner: UInt32) -> SegmentFile? {
    live.values.first {
      $0.processID == id && $0.startTime == startTime && $0.inode == inode && $0.ownerID == owner
    }
  }

  /// All users that have segments, by the last look, and those with live processes.
  public var owners: Set<UInt32> { Set(((try? SegmentDirectory.list()) ?? []).map(\.ownerID)) }
  public var liveOwners: Set<UInt32> { Set(live.values.lazy.map(\.ownerID)) }

  private mutating func note(_ ending: ProcessEnding?, _ file: SegmentFile) {
    guard let ending else {
      return missed("how the process ended is not known: that takes Linux 6.15", .notTold, file)
    }
    var failure = EPERM
    asUser(file.ownerID) { failure = ending.note(with: file) }
    // A segment that is gone needs no note.
    guard failure != 0, failure != ENOENT else { return }
    counts.endingsUnknown += 1
    log(.debug, "cannot note how the process ended, \(ending): \(systemWords(failure))", Self.words(file))
  }

  private mutating func missed(_ why: String, _ reason: UnknownEnding, _ file: SegmentFile) {
    counts.endingsUnknown += 1
    asUser(file.ownerID) { _ = reason.note(with: file) }
    log(.debug, "\(why): \(reason)", Self.words(file))
  }

  /// Does `body` with the rights that `user` has on files; not at all if that can't be.
  private func asUser(_ user: UInt32, _ body: () -> Void) {
    guard geteuid() == 0, user != 0 else { return body() }
    // setfsuid tells no failure: the second call returns the id that counts now.
    _ = setfsuid(user)
    defer { _ = setfsuid(0) }
    if setfsuid(.max) == Int32(bitPattern: user) { body() }
  }

  /// Whether this process may write notes on the segment: only root may, where it belongs to another user.
  private func mayBeNoted(_ file: SegmentFile) -> Bool { geteuid() == 0 || geteuid() == file.ownerID }

  private static func words(_ file: SegmentFile) -> (name: String, value: String) { ("segment", file.path) }
}

/// The marks by which the server says that it sweeps the directories itself (SweeperMark.swift).
private struct SweeperMarks {
  private final class Holder {
    let mark: SweeperMark
    init(_ mark: consuming SweeperMark) { self.mark = mark }
  }

  private var held: [String: Holder] = [:]

  /// Puts a mark into each of `directories` that has none: also into a directory that was removed and made again.
  mutating func renew(in directories: [String]) {
    held = held.filter { directories.contains($0.key) }
    for directory in directories where held[directory]?.mark.isInPlace != true {
      held[directory] = nil
      if let mark = SweeperMark(in: directory) { held[directory] = Holder(mark) }
    }
  }
}
