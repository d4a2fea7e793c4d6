// SPDX-License-Identifier: Apache-2.0
// The segments of all users, as the broker knows them: names, owners and states of files, never what is in them. The
// broker notes with each segment how its process ended, as that segment's owner, and removes segments of ended
// processes by the retention policy.

import CBroker
import Glibc
import SegmentFiles
import SystemAccess

/// Follows the directories of segments.
struct SegmentWatch: ~Copyable {
  private let retention: RetentionPolicy
  private let log: Log
  private var endings: Endings
  private var threadEnds: ThreadEnds?
  private var changes: DirectoryWatcher?
  private var marks = SweeperMarks()
  /// The segments of running processes, by path.
  private(set) var live: [String: SegmentFile] = [:]
  /// The paths of the segments of ended processes. Nil before the first look: of processes that ended before it, nobody
  /// asks how.
  private var dead: Set<String>?
  /// The files (by path and inode) whose processes the broker itself saw running.
  private var seenAlive: Set<FileKey> = []

  private struct FileKey: Hashable {
    var path: String
    var inode: UInt64
  }

  init(retention: RetentionPolicy, watchLimit: Int, log: Log) throws(Complaint) {
    self.retention = retention
    self.log = log
    endings = try Endings(limit: watchLimit)
    // The messages of the kernel's process connector come to root alone.
    threadEnds = ThreadEnds()
    let directories = SegmentDirectory.searchPaths
    do throws(Complaint) {
      changes = try DirectoryWatcher(directories)
      log(.info, "watching for segments", ("directories", directories.joined(separator: " ")))
    } catch {
      log(.warning, "\(error); segments are noticed every now and then only")
      changes = nil
    }
    descriptors = [endings.descriptor, changes?.descriptor ?? -1].filter { $0 >= 0 }
  }

  /// The descriptors that are readable when there is something to look at.
  let descriptors: [Int32]

  /// Takes the changes of directories that have come, and opens each process that has appeared, at once. Returns the
  /// owners of the segments that have appeared; nil if nothing has changed.
  mutating func takeChanges() -> Set<UInt32>? {
    let new = changes?.changes() ?? []
    guard !new.isEmpty else { return nil }
    var owners: Set<UInt32> = []
    for change in new {
      guard case .appeared(let path) = change, let file = endings.watchArrival(path) else { continue }
      owners.insert(file.ownerID)
    }
    return owners
  }

  /// Compares the segments with those of the last look, and sweeps. Returns the owners of processes that have begun or
  /// ended.
  mutating func look(_ figures: inout Figures) -> Set<UInt32> {
    let directories = SegmentDirectory.searchPaths
    changes?.watch(directories)
    marks.renew(in: directories)
    threadEnds?.take()
    var owners: Set<UInt32> = []
    for (file, ending) in endings.ended() {
      note(ending ?? threadEnds?.ending(of: file), file, &figures)
      owners.insert(file.ownerID)
    }
    let swept = SegmentDirectory.sweep(retention)
    for file in swept.removed { log(.info, "removed the segment of a dead process", Self.words(file)) }
    figures[.segmentsRemoved] += UInt64(swept.removed.count)
    for (path, why) in swept.failed {
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
      case .tooMany?: missed("cannot learn how the process ends", .tooMany, file, &figures)
      case .gone?:
        // A live process that can't be seen here runs in a pid namespace that this namespace does not hold.
        let isLive = (try? SegmentDirectory.file(at: file.path))?.isLive == true
        if !isLive, let ending = threadEnds?.ending(of: file) {
          note(ending, file, &figures)
        } else {
          missed("how the process ends is not known", isLive ? .notVisible : .notSeen, file, &figures)
        }
      case .system(let code)?:
        missed("cannot learn how the process ends: \(systemWords(code))", .notTold, file, &figures)
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
          note(ending, file, &figures)
        } else if UnknownEnding(ofSegment: file.path) == nil {
          missed("how the process ended is not known", .notSeen, file, &figures)
        }
      }
    }
    let present = Set(files.lazy.map { FileKey(path: $0.path, inode: $0.inode) })
    seenAlive = seenAlive.intersection(present).union(running.lazy.map { FileKey(path: $0.path, inode: $0.inode) })
    dead = Set(ended.lazy.map(\.path))
    live = Dictionary(running.lazy.map { ($0.path, $0) }) { $1 }
    figures[.segmentsLive] = UInt64(running.count)
    figures[.segmentsDead] = UInt64(ended.count)
    figures[.segmentBytes] = files.reduce(0) { $0 &+ $1.allocatedBytes }
    return owners
  }

  /// The owner of the segment of process `id`: of the live process, else of an ended one that was seen alive, else of
  /// the newest. Nil if there is none.
  func owner(ofProcess id: Int32, startTime: UInt64?) -> UInt32? {
    let files = ((try? SegmentDirectory.list()) ?? []).filter {
      $0.processID == id && (startTime == nil || $0.startTime == startTime)
    }
    return Self.best(of: files) { seenAlive.contains(FileKey(path: $0.path, inode: $0.inode)) }?.ownerID
  }

  static func best(of files: [SegmentFile], wasSeenAlive: (SegmentFile) -> Bool) -> SegmentFile? {
    func rank(_ file: SegmentFile) -> (Int, UInt64, Double) {
      (file.isLive ? 2 : wasSeenAlive(file) ? 1 : 0, file.startTime, file.modified)
    }
    return files.max { rank($0) < rank($1) }
  }

  /// The live process `id` of user `owner`, if it is the one with this start time and this file.
  func process(_ id: Int32, startTime: UInt64, inode: UInt64, of owner: UInt32) -> SegmentFile? {
    live.values.first {
      $0.processID == id && $0.startTime == startTime && $0.inode == inode && $0.ownerID == owner
    }
  }

  /// All users that have segments, by the last look, and those with live processes.
  var owners: Set<UInt32> { Set(((try? SegmentDirectory.list()) ?? []).map(\.ownerID)) }
  var liveOwners: Set<UInt32> { Set(live.values.lazy.map(\.ownerID)) }

  private func note(_ ending: ProcessEnding?, _ file: SegmentFile, _ figures: inout Figures) {
    guard let ending else {
      return missed("how the process ended is not known: that takes Linux 6.15", .notTold, file, &figures)
    }
    let failure = asOwner(of: file) { ending.note(with: file) }
    // A segment that is gone needs no note.
    guard failure != 0, failure != ENOENT else { return }
    figures[.endingsUnknown] += 1
    log(.debug, "cannot note how the process ended, \(ending): \(systemWords(failure))", Self.words(file))
  }

  private func missed(_ why: String, _ reason: UnknownEnding, _ file: SegmentFile, _ figures: inout Figures) {
    figures[.endingsUnknown] += 1
    _ = asOwner(of: file) { reason.note(with: file) }
    log(.debug, "\(why): \(reason)", Self.words(file))
  }

  /// Does `body` with the rights that the file's owner has on files.
  private func asOwner(of file: SegmentFile, _ body: () -> Int32) -> Int32 {
    let own = geteuid()
    guard own == 0, file.ownerID != 0 else { return body() }
    // setfsuid tells no failure: the second call returns the id that counts now.
    _ = setfsuid(file.ownerID)
    defer { _ = setfsuid(own) }
    guard setfsuid(.max) == Int32(bitPattern: file.ownerID) else { return EPERM }
    return body()
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
