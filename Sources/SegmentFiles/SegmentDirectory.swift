// SPDX-License-Identifier: Apache-2.0
// Where segments lie: the directories, and the files in them that are segments by name, kind and
// owner.
//
// Anybody may put files into a segment directory (mode 1777). Only regular files whose name has the
// right form are listed; a file that claims a running process of someone else, who is neither its
// owner nor root, is left out.

import ByteText
import Glibc
import SystemAccess

/// A segment file, found by its name; not opened.
public struct SegmentFile: Hashable, Sendable {
  /// The process id of its name, in the pid namespace of that process.
  public var processID: Int32
  /// The start time of its name: clock ticks since boot, field 22 of /proc/PID/stat.
  public var startTime: UInt64
  /// The path of the file.
  public var path: String
  /// Whether the process with this id and start time ran when the file was found.
  public var isLive: Bool
  /// The user that owns the file.
  public var ownerID: UInt32
  /// Bytes of memory that it takes, holes left out.
  public var allocatedBytes: UInt64
  /// When the agent gave the file its size, in seconds since 1970-01-01 UTC. Stores through a
  /// mapping don't change that time.
  public var modified: Double
  /// The last change of the file's mode or size, in seconds since 1970-01-01 UTC.
  var changed: Double
  /// The number of the file on its file system: after an exec there is another file with the same
  /// path.
  public var inode: UInt64
  /// Whether a sweep has seen it dead: see Retention.swift.
  var isMarkedDead: Bool
  /// The offsets of the time namespace in which the start time is counted; nil if they are not
  /// known.
  package var offsets: ClockOffsets?

  /// Whether the process runs now. A few system calls.
  public var isStillLive: Bool {
    ProcessLiveness.isAlive(processID: processID, startTime: startTime, offsets: offsets)
  }

  /// Whether the process exists: also if it has ended and its parent has not waited for it yet. A
  /// few system calls.
  public var isPresent: Bool {
    ProcessLiveness.isPresent(processID: processID, startTime: startTime, offsets: offsets)
  }

  /// The process's id in the reader's pid namespace, for a process in another one; nil if it
  /// doesn't run, or can't be seen. Looks at every process.
  public var processIDHere: Int32? {
    guard let identity = FileNumber(path: path), identity.inode == inode else { return nil }
    return ProcessLiveness.processID(ofInner: processID, writing: identity)
  }

  /// The process id and start time of the segment's name in which `path` ends; nil if it ends in
  /// another name.
  public static func process(ofPath path: String) -> (processID: Int32, startTime: UInt64)? {
    parse(name: String(path[(path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex)...]))
  }

  /// The name of the segment of a process in a segment directory.
  public static func name(processID: Int32, startTime: UInt64) -> String { "\(processID).\(startTime).seg" }

  /// The process id and start time of a segment's name; nil if the name is no segment's.
  static func parse(name: String) -> (processID: Int32, startTime: UInt64)? {
    let parts = name.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard parts.count == 3, parts[2].elementsEqual("seg".utf8),
      let processID = Int32(String(parts[0]) ?? ""), processID > 0,
      let startTime = UInt64(String(parts[1]) ?? ""),
      // No leading zeros or signs: one process, one name.
      name == Self.name(processID: processID, startTime: startTime)
    else { return nil }
    return (processID, startTime)
  }
}

/// A file that has a segment's name and is not taken for one.
public struct IgnoredFile: Hashable, Sendable {
  /// Why a file is not taken for a segment.
  public enum Reason: Error, Hashable, Sendable {
    /// It is a symbolic link.
    case symbolicLink
    /// It is a directory.
    case directory
    /// It is a named pipe, a socket or a device.
    case specialFile
    /// Its owner is somebody else than root and the user of the running process.
    case foreign
    /// It was removed meanwhile.
    case gone
  }

  /// The path of the file.
  public var path: String
  /// Why it is not taken for a segment.
  public var reason: Reason
}

/// The directories to which agents write segments, and in which readers look for them.
///
/// All functions may be called by any thread. A directory is read anew each time.
public enum SegmentDirectory {
  /// The directory of $ALLOCS_DIR alone if that is set, else /run/allocs and /dev/shm/allocs, which
  /// agents try in this order. They need not exist.
  public static var searchPaths: [String] {
    if let value = getenv("ALLOCS_DIR"), value[0] != 0 { return [String(reversibly: UnsafePointer(value))] }
    return SharedDirectories.paths
  }

  /// All segment files in `directories` (nil: `searchPaths`), by process id, then start time.
  ///
  /// A directory that is missing or may not be read has none. Throws `.system` if a directory can't
  /// be read because descriptors or memory are short.
  public static func list(in directories: [String]? = nil) throws(Complaint) -> [SegmentFile] {
    try files(in: directories) { _ in true }
  }

  /// The segment of the running process with this id; else the newest segment of a process that had
  /// this id; else nil. Throws as `list(in:)` does.
  public static func find(processID: Int32, in directories: [String]? = nil) throws(Complaint) -> SegmentFile? {
    let found = try files(in: directories) { $0 == processID }
    return found.first { $0.isLive } ?? found.max { ($0.startTime, $0.modified) < ($1.startTime, $1.modified) }
  }

  /// The segment file at `path`; nil if there is none. Throws as `list(in:)` does.
  public static func file(at path: String) throws(Complaint) -> SegmentFile? {
    guard let slash = path.lastIndex(of: "/"), let process = SegmentFile.process(ofPath: path),
      let directory = try OpenDirectory(path: String(path[..<slash]))
    else { return nil }
    let name = String(path[path.index(after: slash)...])
    return directory.segment(name: name, processID: process.processID, startTime: process.startTime)
  }

  /// The files in `directories` (nil: `searchPaths`) that have the name of a segment of process
  /// `processID` and are not taken for one, in the order of the directories.
  public static func ignored(processID: Int32, in directories: [String]? = nil) -> [IgnoredFile] {
    var ignored: [IgnoredFile] = []
    for path in directories ?? searchPaths {
      guard let directory = try? OpenDirectory(path: path), let names = try? directory.names() else { continue }
      for name in names.sorted() {
        guard let process = SegmentFile.parse(name: name), process.processID == processID,
          case .failure(let reason) = directory.examine(
            name: name, processID: processID, startTime: process.startTime)
        else { continue }
        ignored.append(IgnoredFile(path: path + "/" + name, reason: reason))
      }
    }
    return ignored
  }

  private static func files(
    in directories: [String]?, where isWanted: (Int32) -> Bool
  ) throws(Complaint) -> [SegmentFile] {
    var found: [SegmentFile] = []
    for path in directories ?? searchPaths {
      guard let directory = try OpenDirectory(path: path) else { continue }
      for name in try directory.names() {
        guard let process = SegmentFile.parse(name: name), isWanted(process.processID),
          let file = directory.segment(name: name, processID: process.processID, startTime: process.startTime)
        else { continue }
        found.append(file)
      }
    }
    return found.sorted { ($0.processID, $0.startTime, $0.path) < ($1.processID, $1.startTime, $1.path) }
  }
}

/// An open directory: files that are found in it and files that are changed in it are in one
/// directory, even if its path leads elsewhere meanwhile.
struct OpenDirectory: ~Copyable {
  let path: String
  let descriptor: Int32

  /// nil if it is missing or may not be read. Throws `.system` if descriptors or memory are short.
  init?(path: String) throws(Complaint) {
    // The directory itself may be reached through links, as /var/run is; the files in it may not.
    let descriptor = open(path.originalPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    let code = errno
    self.descriptor = descriptor
    self.path = path
    guard descriptor >= 0 else {
      guard isShortage(code) else { return nil }
      throw .system(path: path, operation: "look for segments in", why: systemWords(code))
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  func names() throws(Complaint) -> [String] {
    // The stream takes a descriptor of its own, and closes it.
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0, let stream = fdopendir(copy) else {
      let code = errno
      if copy >= 0 { close(copy) }
      throw .system(path: path, operation: "look for segments in", why: systemWords(code))
    }
    defer { closedir(stream) }
    // The copy shares its place in the directory with the original.
    rewinddir(stream)
    var names: [String] = []
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      names.append(name)
    }
    return names
  }

  /// The file `name` if it is a regular file that can be the segment of that process.
  func segment(name: String, processID: Int32, startTime: UInt64) -> SegmentFile? {
    try? examine(name: name, processID: processID, startTime: startTime).get()
  }

  /// The file `name`, or why it can't be the segment of that process.
  func examine(name: String, processID: Int32, startTime: UInt64) -> Result<SegmentFile, IgnoredFile.Reason> {
    var status = stat()
    guard fstatat(descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { return .failure(.gone) }
    switch status.st_mode & S_IFMT {
    case S_IFREG: break
    case S_IFLNK: return .failure(.symbolicLink)
    case S_IFDIR: return .failure(.directory)
    default: return .failure(.specialFile)
    }
    let (isLive, offsets) = liveness(name, processID, startTime, isMarkedDead: status.st_mode & S_IWUSR == 0)
    if isLive, status.st_uid != 0, let owners = ProcessLiveness.userIDs(processID: processID),
      !owners.contains(status.st_uid)
    {
      return .failure(.foreign)
    }
    func seconds(_ time: timespec) -> Double { Double(time.tv_sec) + Double(time.tv_nsec) / 1e9 }
    let file = SegmentFile(
      processID: processID, startTime: startTime, path: path + "/" + name, isLive: isLive, ownerID: status.st_uid,
      // stat(2) counts blocks of 512 bytes, whatever the file system's.
      allocatedBytes: UInt64(max(0, status.st_blocks)) * 512, modified: seconds(status.st_mtim),
      changed: seconds(status.st_ctim), inode: UInt64(status.st_ino),
      isMarkedDead: status.st_mode & S_IWUSR == 0, offsets: offsets)
    return .success(file)
  }

  /// Whether the process of the file `name` runs, and the offsets of its time namespace, as far as
  /// the file had to be asked.
  private func liveness(
    _ name: String, _ processID: Int32, _ startTime: UInt64, isMarkedDead: Bool
  ) -> (isLive: Bool, offsets: ClockOffsets?) {
    // Nearly always the process is in the reader's namespaces, and its name tells all.
    if ProcessLiveness.isAlive(processID: processID, startTime: startTime, offsets: .own) { return (true, .own) }
    // A process that a sweep has found dead stays dead; but a sweep of an earlier version did not
    // know of namespaces.
    if isMarkedDead, access("/proc/\(processID)", F_OK) != 0 { return (false, nil) }
    guard let evidence = SegmentEvidence(directory: descriptor, name: name) else {
      // The file is another user's.
      let isLive = ProcessLiveness.isAlive(processID: processID, startTime: startTime)
      return (isLive, isLive ? ClockOffsets(ofProcess: processID) : nil)
    }
    let isLive =
      evidence.isLocked
      || ProcessLiveness.isAlive(processID: processID, startTime: startTime, offsets: evidence.offsets)
    return (isLive, evidence.offsets)
  }
}
