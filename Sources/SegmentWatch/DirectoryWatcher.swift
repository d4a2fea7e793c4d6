// SPDX-License-Identifier: Apache-2.0
// Changes in the directories of segments, by inotify(7).
//
// The kernel may drop events (IN_Q_OVERFLOW), and a directory may not exist yet or may go away. After each of these the
// reader is told to look at everything again. So events say *when* to look and which files are gone; they are never the
// only source of knowledge about segments. A directory that doesn't exist is waited for in its nearest ancestor that
// does.

import ByteText
import Glibc
import SystemAccess

/// A change that a watcher has seen.
enum DirectoryChange: Equatable {
  /// A file appeared, or got its final name, or was changed by its owner.
  case appeared(path: String)
  case disappeared(path: String)
  /// Anything may have changed.
  case unknown
}

/// Owns an inotify descriptor, non-blocking. Not thread-safe: one task reads it.
struct DirectoryWatcher: ~Copyable {
  let descriptor: Int32
  private var directories: [String]
  private let parents: [String]
  /// The watched paths, by the kernel's number of each watch: one of `directories`, or an ancestor in which one of them
  /// is expected to appear.
  private var watches: [Int32: (path: String, isDirectory: Bool)] = [:]
  private var paused: Set<String> = []
  private var buffer = [UInt8](repeating: 0, count: 16 << 10)

  /// `parents`: directories in which further ones of interest may appear.
  init(_ directories: [String], parents: [String] = []) throws(Complaint) {
    descriptor = inotify_init1(Int32(IN_NONBLOCK | IN_CLOEXEC))
    guard descriptor >= 0 else {
      throw Complaint(
        .obstacle, what: "cannot watch for new segments: \(systemWords(errno))",
        advice: "raise /proc/sys/fs/inotify/max_user_instances", code: errno)
    }
    self.directories = directories
    self.parents = parents
    watchAll()
  }

  deinit { close(descriptor) }

  /// Watches these directories from now on; a directory that is being watched stays so.
  mutating func watch(_ directories: [String]) {
    guard directories != self.directories else { return }
    self.directories = directories
    for (watch, place) in watches where place.isDirectory && !directories.contains(place.path) {
      inotify_rm_watch(descriptor, watch)
    }
    watchAll()
  }

  /// Leaves a directory out until `resume`: somebody changes it without end, and looks at it from time to time tell as
  /// much.
  mutating func pause(_ directory: String) {
    guard directories.contains(directory), paused.insert(directory).inserted else { return }
    for (watch, place) in watches where place.path == directory {
      watches[watch] = nil
      inotify_rm_watch(descriptor, watch)
    }
  }

  mutating func resume(_ directory: String) {
    guard paused.remove(directory) != nil, directories.contains(directory) else { return }
    if !watch(directory, isDirectory: true) { watchAll() }
  }

  /// Changes since the last call, a few hundred at most; empty if there are none.
  mutating func changes() -> [DirectoryChange] {
    var changes: [DirectoryChange] = []
    var mustWatchAnew = false
    // Somebody may make files as fast as they are read of here: the rest stays for the next call.
    let size = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    if size > 0 {
      var offset = 0
      while let event = Event(buffer[..<size], at: offset) {
        offset &+= event.size
        if event.mask & UInt32(IN_Q_OVERFLOW) != 0 {
          changes.append(.unknown)
          continue
        }
        guard let watch = watches[event.watch] else { continue }
        if event.mask & UInt32(IN_IGNORED) != 0 {
          watches[event.watch] = nil
          mustWatchAnew = true
        } else if event.mask & UInt32(IN_DELETE_SELF | IN_MOVE_SELF) != 0 {
          if event.mask & UInt32(IN_MOVE_SELF) != 0 { inotify_rm_watch(descriptor, event.watch) }
          mustWatchAnew = true
        } else if !watch.isDirectory {
          // In an ancestor only directories matter: one of them may lead to a directory of ours.
          mustWatchAnew = mustWatchAnew || event.mask & UInt32(IN_ISDIR) != 0
        } else {
          let path = "\(watch.path)/\(event.name)"
          let isGone = event.mask & UInt32(IN_DELETE | IN_MOVED_FROM) != 0
          changes.append(isGone ? .disappeared(path: path) : .appeared(path: path))
        }
      }
    }
    if mustWatchAnew {
      watchAll()
      changes.append(.unknown)
    }
    return changes
  }

  /// Watches each directory, or waits for it in an ancestor.
  private mutating func watchAll() {
    for parent in parents { _ = watch(parent, isDirectory: false) }
    for directory in directories where !paused.contains(directory) {
      // A segment is complete when its writer renames it into its directory or first closes it. IN_CREATE comes
      // earlier, and serves to list processes that have only just started.
      if watch(directory, isDirectory: true) { continue }
      var ancestor = directory[...]
      while let slash = ancestor.lastIndex(of: "/") {
        ancestor = ancestor[..<slash]
        if watch(ancestor.isEmpty ? "/" : String(ancestor), isDirectory: false) {
          // The directory may have appeared since the first attempt.
          _ = watch(directory, isDirectory: true)
          break
        }
      }
    }
  }

  private mutating func watch(_ path: String, isDirectory: Bool) -> Bool {
    let ofSelf = UInt32(IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)
    let events = UInt32(IN_CREATE | IN_MOVED_TO)
    let mask = isDirectory ? ofSelf | events | UInt32(IN_DELETE | IN_MOVED_FROM) : ofSelf | events | UInt32(IN_MASK_ADD)
    // A user's own file system could keep whoever looks up a name in it for ever.
    guard let opened = SharedDirectories.open(toWatch: path) else { return false }
    let watch = inotify_add_watch(descriptor, opened.path.originalPath, mask)
    if opened.descriptor >= 0 { close(opened.descriptor) }
    guard watch >= 0 else { return false }
    // A directory may be one of `directories` and the ancestor of another. It then stays one of `directories`.
    if isDirectory || watches[watch] == nil { watches[watch] = (path, isDirectory) }
    return true
  }
}

/// One event, decoded from what read(2) gave: `struct inotify_event` and a name padded with zeros.
private struct Event {
  var watch: Int32
  var mask: UInt32
  var name: String
  /// Bytes of the event in the buffer.
  var size: Int

  init?(_ bytes: ArraySlice<UInt8>, at offset: Int) {
    let head = 16
    let bytes = bytes.dropFirst(max(0, offset))
    guard bytes.count >= head else { return nil }
    func word(_ index: Int) -> UInt32 {
      bytes[(bytes.startIndex &+ 4 &* index)...].prefix(4).reversed().reduce(0) {
        $0 << 8 | UInt32(truncatingIfNeeded: $1)
      }
    }
    let length = Int(truncatingIfNeeded: word(3))
    guard bytes.count &- head >= length else { return nil }
    watch = Int32(bitPattern: word(0))
    mask = word(1)
    name = String(decoding: bytes.dropFirst(16).prefix(max(0, length)).prefix { $0 != 0 }, as: UTF8.self)
    size = head &+ length
  }
}
