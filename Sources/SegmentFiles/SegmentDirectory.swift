// SPDX-License-Identifier: Apache-2.0
// Where segments lie: the directories, and the files in them that are segments by name, kind and
// owner.
//
// - A user is told of the user's own segments only; root of everybody's. A file that others put
//   into a directory stands for nothing of the user's, hides nothing and costs the user nothing but
//   the time to pass its name over.
// - Only regular files with one name, of the right form, are listed; a file that claims a running
//   process of someone else than its owner, who isn't root, is left out.
// - A directory may hold any number of names. Of each owner, only the newest segments are looked
//   at; the others are counted.

import Bounds
import ByteText
import Glibc
import SharedLayout
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
  /// The file, by its number.
  package var number: FileNumber
  /// Whether the process with that id and start time, as /proc has it here, is the owner's: else a
  /// process that lives does so in another pid namespace.
  package var isHere: Bool
  /// The offsets of the time namespace in which the start time is counted; nil if they are not
  /// known.
  package var offsets: ClockOffsets?

  private var claim: ProcessLiveness.Claim {
    ProcessLiveness.Claim(processID: processID, startTime: startTime, offsets: offsets, ownerID: ownerID)
  }

  /// Whether the process runs now. A few system calls.
  public var isStillLive: Bool { ProcessLiveness.find(claim) == .alive }

  /// Whether the process exists: also if it has ended and its parent has not waited for it yet. A
  /// few system calls.
  public var isPresent: Bool { [.alive, .ended].contains(ProcessLiveness.find(claim)) }

  /// Whether the file's header is that of the process that the name says: an empty file, or one
  /// that was written for another name, stands for nothing. A few system calls.
  package var hasFittingHeader: Bool {
    guard let file = try? OpenFile(path: path), file.identity == number else { return false }
    return (try? ProcessIdentity(of: file, path: path)) != nil
  }

  /// The group of the file's process, as `SegmentDirectory.group(ofProcess:user:)` tells it.
  package var processGroup: UInt32? {
    isHere ? SegmentDirectory.group(ofProcess: processID, user: ownerID) : nil
  }

  /// The process's id in the reader's pid namespace, for a process in another one; nil if it
  /// doesn't run, or can't be seen. Looks at every process.
  public var processIDHere: Int32? {
    guard let file = try? OpenFile(path: path), file.identity == number,
      let identity = try? ProcessIdentity(of: file, path: path)
    else { return nil }
    return ProcessDirectory(elsewhere: identity)?.processID
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
    var name = name
    return name.withUTF8 { text in
      guard let found = OpenDirectory.Name(UnsafeRawBufferPointer(text)), found.isSegment else { return nil }
      return (found.processID, found.startTime)
    }
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
    /// Its owner is somebody else than root and the user of the running process; or the file is in
    /// the directory of somebody else.
    case foreign
    /// It has another name somewhere (a hard link).
    case hardLink
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
  /// The directory of $ALLOCS_DIR alone if that is set; else the caller's own directories and those
  /// that are common to all users; for root, the directories of all users. They need not exist.
  public static var searchPaths: [String] {
    if let value = getenv("ALLOCS_DIR"), value[0] != 0 {
      return [String(reversibly: UnsafePointer(value))]  // raw: a directory to open
    }
    return SharedDirectories.searched(byUser: geteuid()).map(\.path)
  }

  /// All segment files in `directories` (nil: `searchPaths`) that the caller may read, by process
  /// id, then start time.
  ///
  /// A directory that is missing or may not be read has none. Throws `.system` if a directory can't
  /// be read because descriptors or memory are short.
  public static func list(in directories: [String]? = nil) throws(Complaint) -> [SegmentFile] {
    try survey(in: directories).files
  }

  /// Segment files, and how many more there are.
  public struct Survey: Sendable {
    /// The files, by process id, then start time.
    public var files: [SegmentFile] = []
    /// Files with a segment's name that were not looked at, by their owner: a user has more than
    /// are looked at.
    public var omitted: [UInt32: Int] = [:]
    /// Names in common directories that were not read, as there are too many. Nobody knows whose
    /// they are.
    public var unread = 0
  }

  /// Segments of one owner in one directory that are looked at.
  public static let mostOfOwner = 4096

  /// As `list(in:)`, and what it left out.
  public static func survey(in directories: [String]? = nil) throws(Complaint) -> Survey {
    var survey = try files(in: directories) { _ in true }
    survey.files.sort { ($0.processID, $0.startTime, $0.path) < ($1.processID, $1.startTime, $1.path) }
    return survey
  }

  /// The segment of the running process with this id; else the newest segment of a process that had
  /// this id; else nil. Of the segments that the caller may read. Throws as `list(in:)` does.
  public static func find(processID: Int32, in directories: [String]? = nil) throws(Complaint) -> SegmentFile? {
    preferred(of: try files(in: directories) { $0 == processID }.files)
  }

  /// All segments with this process id that the caller may read. Throws as `list(in:)` does.
  public static func all(ofProcess processID: Int32, in directories: [String]? = nil) throws(Complaint) -> [SegmentFile]
  {
    try files(in: directories) { $0 == processID }.files
  }

  /// Which of several segments with one process id is meant by the id alone: that of the live
  /// process of this pid namespace, then one of a live process in another; else one of an ended
  /// process, rather one that `wasSeen` alive, as anybody may write that a process of some id has
  /// been there; the newest of equals.
  public static func preferred(
    of files: [SegmentFile], wasSeen: (SegmentFile) -> Bool = { _ in false }
  ) -> SegmentFile? {
    func rank(_ file: SegmentFile) -> Int {
      if file.isLive { return file.isHere ? file.ownerID == file.processUserID ? 4 : 3 : 2 }
      return wasSeen(file) ? 1 : 0
    }
    return files.max { a, b in
      let (first, second) = (rank(a), rank(b))
      // Of two segments of one process, in two directories, the later is that of the program that
      // the process runs now.
      return first != second ? first < second : (a.startTime, a.modified) < (b.startTime, b.modified)
    }
  }

  /// The segment file at `path`; nil if there is none. Throws as `list(in:)` does.
  public static func file(at path: String) throws(Complaint) -> SegmentFile? {
    let (parent, name) = OpenFile.split(path)
    guard let process = SegmentFile.parse(name: name), let directory = try OpenDirectory(path: parent) else {
      return nil
    }
    return directory.segment(name: name, processID: process.processID, startTime: process.startTime)
  }

  /// The group of the process that runs here under this id, where it has one alone: real,
  /// effective, saved and of the file system. A program that has another group by its file's mode
  /// has not. Nil for a process that is not all of that user's.
  package static func group(ofProcess processID: Int32, user: UInt32) -> UInt32? {
    guard let directory = try? ProcessDirectory(processID: processID), let status = try? directory.line("status"),
      let users = ProcessLiveness.userIDs(status), users.count == 4, users.allSatisfy({ $0 == user }),
      let groups = ProcessLiveness.groupIDs(status), groups.count == 4, Set(groups).count == 1
    else { return nil }
    return groups.first
  }

  /// The segments of the process that runs here under this id, in the directories where its user's
  /// segments can be. A few system calls, whatever else there is.
  package static func pathsOfRunning(processID: Int32) -> [String] {
    guard let process = try? ProcessDirectory(processID: processID), let start = try? process.stat().startTime,
      let users = ProcessLiveness.userIDs(processID: processID)
    else { return [] }
    let name = SegmentFile.name(processID: processID, startTime: start)
    let own = Set([users, [geteuid()]].joined()).flatMap { SharedDirectories.Place.own(ofUser: $0) }
    let places = getenv("ALLOCS_DIR") == nil ? (own + [.common, .former]).map(\.path) : searchPaths
    return places.map { "\($0)/\(name)" }
  }

  /// The files in `directories` (nil: `searchPaths`) that have the name of a segment of process
  /// `processID` and are not taken for one, in the order of the directories.
  public static func ignored(processID: Int32, in directories: [String]? = nil) -> [IgnoredFile] {
    var ignored: [IgnoredFile] = []
    for path in directories ?? searchPaths {
      guard let directory = try? OpenDirectory(path: path),
        let names = try? directory.names(where: { $0.processID == processID && $0.isSegment }).names
      else { continue }
      for name in names.sorted(by: { $0.startTime < $1.startTime }).prefix(16) {
        let text = name.segment
        // Of a file of another's nothing is said.
        guard let status = ownStatus(of: text, in: directory.descriptor),
          geteuid() == 0 || status.st_uid == geteuid(),
          case .failure(let reason) = directory.examine(
            name: text, processID: processID, startTime: name.startTime)
        else { continue }
        ignored.append(IgnoredFile(path: path + "/" + text, reason: reason))
      }
    }
    return ignored
  }

  /// The directories among `searchPaths` that are there and not looked into, each with the reason.
  public static var refused: [(path: String, why: String)] {
    searchPaths.compactMap { path in
      do throws(DirectoryRefusal) {
        let directory = try CheckedDirectory(path: path)
        guard OpenDirectory.isReadersOwn(directory) else {
          throw .untrusted("it belongs to user \(directory.ownerID)")
        }
        return nil
      } catch {
        guard case .untrusted(let why) = error else { return nil }
        return (path, why)
      }
    }
  }

  /// Whose process runs under this id, if it isn't the caller's; nil if none does, or it is the
  /// caller's. Nothing else of the process is looked at.
  public static func strangerRunning(processID: Int32) -> UInt32? {
    guard geteuid() != 0, let users = ProcessLiveness.userIDs(processID: processID), let user = users.first,
      !users.contains(geteuid())
    else { return nil }
    return user
  }

  private static func files(
    in directories: [String]?, where isWanted: (Int32) -> Bool
  ) throws(Complaint) -> Survey {
    var survey = Survey()
    for path in directories ?? searchPaths {
      guard let directory = try OpenDirectory(path: path) else { continue }
      let found = try directory.newest(where: isWanted)
      for name in found.names {
        let text = name.segment
        guard let file = directory.segment(name: text, processID: name.processID, startTime: name.startTime) else {
          continue
        }
        survey.files.append(file)
      }
      survey.omitted.merge(found.omitted) { $0 &+ $1 }
      survey.unread &+= found.unread
    }
    return survey
  }
}

extension SegmentFile {
  /// The effective user of the process of that id; nil if there is none.
  fileprivate var processUserID: UInt32? { (try? ProcessDirectory(processID: processID))?.effectiveUser }
}

/// An open directory: files that are found in it and files that are changed in it are in one
/// directory, even if its path leads elsewhere meanwhile.
package struct OpenDirectory: ~Copyable {
  package let checked: CheckedDirectory
  package var path: String { checked.path }
  package var descriptor: Int32 { checked.descriptor }

  /// nil if it is missing, may not be read or is not trusted. Throws `.system` if descriptors or
  /// memory are short.
  package init?(path: String) throws(Complaint) {
    let directory: CheckedDirectory
    do throws(DirectoryRefusal) {
      directory = try CheckedDirectory(path: path)
    } catch {
      if case .shortage(let code) = error {
        throw .system(path: path, operation: "look for segments in", why: systemWords(code))
      }
      return nil
    }
    guard Self.isReadersOwn(directory) else { return nil }
    checked = directory
  }

  /// Whether the caller looks into the directory: into the own directory of another user, only root
  /// does.
  static func isReadersOwn(_ directory: borrowing CheckedDirectory) -> Bool {
    let reader = geteuid()
    return reader == 0 || directory.ownerID == reader || directory.isShared || directory.ownerID == 0
      || SharedDirectories.Place(path: directory.path) == nil
  }

  // MARK: names

  /// The name of a segment or a control file.
  package struct Name: Hashable {
    package var processID: Int32
    package var startTime: UInt64
    package var isSegment: Bool

    package var segment: String { SegmentFile.name(processID: processID, startTime: startTime) }
    package var control: String { "\(processID).\(startTime).ctl" }

    /// nil if it is the name of neither.
    package init?(_ bytes: UnsafeRawBufferPointer) {
      let dot = UInt8(ascii: ".")
      guard let first = bytes.firstIndex(of: dot), let second = bytes[first...].dropFirst().firstIndex(of: dot),
        let processID = Self.number(bytes[..<first]).flatMap({ Int32(exactly: $0) }), processID > 0,
        let startTime = Self.number(bytes[first...].prefix(upTo: second).dropFirst())
      else { return nil }
      let ending = bytes[second...].dropFirst()
      isSegment = ending.elementsEqual("seg".utf8)
      guard isSegment || ending.elementsEqual("ctl".utf8) else { return nil }
      self.processID = processID
      self.startTime = startTime
    }

    /// No leading zeros or signs: one process, one name.
    private static func number(_ digits: Slice<UnsafeRawBufferPointer>) -> UInt64? {
      guard digits.count > 0, digits.count <= 20, digits.count == 1 || digits.first != UInt8(ascii: "0") else {
        return nil
      }
      var value: UInt64 = 0
      for digit in digits {
        guard digit &- 0x30 < 10 else { return nil }
        let (product, overflow) = value.multipliedReportingOverflow(by: 10)
        let (sum, carry) = product.addingReportingOverflow(UInt64(truncatingIfNeeded: digit &- 0x30))
        guard !overflow, !carry else { return nil }
        value = sum
      }
      return value
    }
  }

  /// Names that are read of one directory: a million take a third of a second.
  private static let mostNames = 1 << 20

  /// The names of segments and control files that are wanted, and how many names were not read.
  package func names(where isWanted: (Name) -> Bool) throws(Complaint) -> (names: [Name], unread: Int) {
    let readable = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0, let stream = fdopendir(readable) else {
      let code = errno
      if readable >= 0 { close(readable) }
      guard isShortage(code) else { return ([], 0) }
      throw .system(path: path, operation: "look for segments in", why: systemWords(code))
    }
    defer { closedir(stream) }
    var names: [Name] = []
    var meter = BudgetMeter()
    var (seen, unread) = (0, 0)
    while let entry = readdir(stream) {
      seen += 1
      guard seen <= Self.mostNames, meter.goesOn() else {
        unread &+= 1
        // How many more there are is told up to a point, too.
        if unread >= Self.mostNames || Budget.current?.isExhausted == true { break }
        continue
      }
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        Name(UnsafeRawBufferPointer(rebasing: bytes.prefix { $0 != 0 }))
      }
      if let name, isWanted(name) { names.append(name) }
    }
    return (names, unread)
  }

  /// The newest segments of each owner whose segments the caller may read, of processes that are
  /// wanted.
  package func newest(
    where isWanted: (Int32) -> Bool
  ) throws(Complaint) -> (names: [Name], omitted: [UInt32: Int], unread: Int) {
    let reader = geteuid()
    let (names, unread) = try names { $0.isSegment && isWanted($0.processID) }
    guard names.count > SegmentDirectory.mostOfOwner else { return (names, [:], unread) }
    var byOwner: [UInt32: [(name: Name, modified: Int)]] = [:]
    var meter = BudgetMeter()
    for name in names {
      guard meter.goesOn() else { break }
      guard let status = ownStatus(of: name.segment, in: descriptor),
        reader == 0 || status.st_uid == reader
      else { continue }
      byOwner[status.st_uid, default: []].append((name, status.st_mtim.tv_sec))
    }
    var omitted: [UInt32: Int] = [:]
    var kept: [Name] = []
    for (owner, found) in byOwner {
      guard found.count > SegmentDirectory.mostOfOwner else {
        kept += found.map(\.name)
        continue
      }
      omitted[owner] = found.count &- SegmentDirectory.mostOfOwner
      kept += found.sorted { $0.modified > $1.modified }.prefix(SegmentDirectory.mostOfOwner).map(\.name)
    }
    return (kept, omitted, unread)
  }

  // MARK: files

  /// The file `name` if it is a regular file that can be the segment of that process, and the
  /// caller may read it.
  package func segment(name: String, processID: Int32, startTime: UInt64) -> SegmentFile? {
    try? examine(name: name, processID: processID, startTime: startTime).get()
  }

  /// The file `name`, or why it can't be the segment of that process.
  package func examine(name: String, processID: Int32, startTime: UInt64) -> Result<SegmentFile, IgnoredFile.Reason> {
    guard let status = ownStatus(of: name, in: descriptor) else { return .failure(.gone) }
    let reader = geteuid()
    guard reader == 0 || status.st_uid == reader else { return .failure(.foreign) }
    if let reason = IgnoredFile.Reason(ofFile: status) { return .failure(reason) }
    guard checked.canHaveFile(of: status.st_uid) else { return .failure(.foreign) }
    let isMarkedDead = status.st_mode & S_IWUSR == 0
    let claim = ProcessLiveness.Claim(
      processID: processID, startTime: startTime, offsets: .own, ownerID: status.st_uid)
    guard let life = life(name, claim, isMarkedDead: isMarkedDead) else { return .failure(.foreign) }
    func seconds(_ time: timespec) -> Double { Double(time.tv_sec) + Double(time.tv_nsec) / 1e9 }
    let file = SegmentFile(
      processID: processID, startTime: startTime, path: path + "/" + name, isLive: life.isLive,
      ownerID: status.st_uid,
      // stat(2) counts blocks of 512 bytes, whatever the file system's.
      allocatedBytes: UInt64(max(0, status.st_blocks)) &* 512, modified: seconds(status.st_mtim),
      changed: seconds(status.st_ctim), inode: FileNumber(status).inode, isMarkedDead: isMarkedDead,
      number: FileNumber(status), isHere: life.isHere, offsets: life.offsets)
    return .success(file)
  }

  /// Whether the process of the file `name` runs, whether it does so in this pid namespace, and the
  /// offsets of its time namespace, as far as the file had to be asked. Nil if such a process runs
  /// and is somebody else's.
  private func life(
    _ name: String, _ claim: ProcessLiveness.Claim, isMarkedDead: Bool
  ) -> (isLive: Bool, isHere: Bool, offsets: ClockOffsets?)? {
    // Nearly always the process is in the reader's namespaces, and its name tells all.
    let first = ProcessLiveness.find(claim)
    if first == .alive { return (true, true, .own) }
    // A process that a sweep has found dead stays dead; but a sweep of an earlier version did not
    // know of namespaces.
    if isMarkedDead, first != .foreign, access("/proc/\(claim.processID)", F_OK) != 0 { return (false, false, nil) }
    guard let evidence = SegmentEvidence(directory: descriptor, name: name) else {
      return first == .foreign ? nil : (false, false, nil)
    }
    var inner = claim
    inner.offsets = evidence.offsets
    let second = evidence.offsets == .own ? first : ProcessLiveness.find(inner)
    if second == .alive { return (true, true, evidence.offsets) }
    // The process may have another number here, where its number is that of another process.
    if evidence.isLocked { return (true, false, evidence.offsets) }
    return first == .foreign || second == .foreign ? nil : (false, false, evidence.offsets)
  }
}
