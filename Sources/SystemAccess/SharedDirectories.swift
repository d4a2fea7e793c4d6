// SPDX-License-Identifier: Apache-2.0
// The directories in which agents put their segments and allocsd its socket, where neither was told another place:
// which there are (allocs_directories.h), which of them can be trusted, and how they are made.
//
// A directory that anybody could have put there is opened step by step, by descriptors, and looked at before anything
// is done in it. What is done in it is done relative to its descriptor.

import ByteText
import COpening
import Glibc
import SharedLayout

/// The directories of segments, by path.
public enum SharedDirectories {
  /// The kinds of directories, in the order in which an agent tries them, and the kind that is only read.
  public enum Place: Hashable, Sendable {
    /// `/run/allocs/U` of user U, made by root.
    case ofRoot(user: UInt32)
    /// `/run/allocs`, in which all users have their files in the layout before.
    case common
    /// `/run/user/U/allocs`.
    case ofSession(user: UInt32)
    /// `/dev/shm/allocs-U`.
    case inMemory(user: UInt32)
    /// `/dev/shm/allocs`, in which all users have their files in the layout before.
    case former

    var number: UInt32 {
      switch self {
      case .ofRoot: ALLOCS_PLACE_OF_ROOT.rawValue
      case .common: ALLOCS_PLACE_COMMON.rawValue
      case .ofSession: ALLOCS_PLACE_OF_SESSION.rawValue
      case .inMemory, .former: ALLOCS_PLACE_IN_MEMORY.rawValue
      }
    }

    /// The directory in which this one is; nil for the common ones, which are opened by their whole path.
    var parent: String? {
      let text = String(cString: allocs_parent_of_place(number))
      return switch self {
      case .ofRoot, .inMemory: text
      case .ofSession(let user): text + "\(user)"
      case .common, .former: nil
      }
    }

    var name: String {
      let text = String(cString: allocs_name_of_place(number))
      return switch self {
      case .ofRoot(let user), .inMemory(let user): text + "\(user)"
      case .ofSession, .common, .former: text
      }
    }

    public var path: String {
      switch self {
      case .common: String(cString: allocs_parent_of_place(number))
      case .former: String(cString: allocs_former_directory())
      default: "\(parent ?? "")/\(name)"
      }
    }

    /// Whether files of many users are in it.
    public var isCommon: Bool { self == .common || self == .former }

    /// The place that has this path; nil for any other path.
    public init?(path: String) {
      if let place = [Place.common, .former].first(where: { $0.path == path }) {
        self = place
        return
      }
      let digits = path.utf8.drop { $0 < 0x30 || $0 > 0x39 }.prefix { $0 >= 0x30 && $0 <= 0x39 }
      guard let user = UInt32(String(decoding: digits, as: UTF8.self)),
        let place = Self.own(ofUser: user).first(where: { $0.path == path })
      else { return nil }
      self = place
    }

    /// The places of a user's own directories, in the order in which they are tried.
    public static func own(ofUser user: UInt32) -> [Place] {
      [.ofRoot(user: user), .ofSession(user: user), .inMemory(user: user)]
    }
  }

  /// The directory that root makes: it has root's socket, and a directory for each user.
  public static let ofRoot = Place.common.path

  /// Where an agent of `user` puts its segment: in the first of these that is there, or can be made, and is trusted.
  public static func tried(byUser user: UInt32) -> [Place] {
    [.ofRoot(user: user), .common, .ofSession(user: user), .inMemory(user: user)]
  }

  /// Where segments that `user` may read can be. For root: those of all users.
  public static func searched(byUser user: UInt32) -> [Place] {
    let survey = DirectorySurvey(ofUser: user)
    while true {
      if let places = survey.step(until: .infinity) { return places }
    }
  }

  /// Where the directory at `path` can be watched: for one that a user may have mounted something over, through a
  /// descriptor, which the caller closes. Nil if it is missing, or not trusted.
  public static func open(toWatch path: String) -> (path: String, descriptor: Int32)? {
    func through(_ descriptor: Int32) -> (path: String, descriptor: Int32) {
      ("/proc/self/fd/\(descriptor)", descriptor)
    }
    if let place = Place(path: path), let parentPath = place.parent {
      guard let parent = try? CheckedDirectory.parent(of: place, parentPath) else { return nil }
      defer { close(parent) }
      let descriptor = allocs_open_in(parent, place.name, __O_PATH | O_DIRECTORY)
      return descriptor >= 0 ? through(descriptor) : nil
    }
    if path == Place.former.path {
      guard let directory = try? CheckedDirectory(path: path) else { return nil }
      let descriptor = fcntl(directory.descriptor, F_DUPFD_CLOEXEC, 0)
      return descriptor >= 0 ? through(descriptor) : nil
    }
    let session = String(cString: allocs_parent_of_place(Place.ofSession(user: 0).number))
    guard path.hasPrefix(session), let user = UInt32(path.dropFirst(session.count)) else { return (path, -1) }
    return (try? CheckedDirectory.parent(of: .ofSession(user: user), path)).map(through)
  }

  /// open(2) of a path that is not the caller's own. Anybody may have made the directory of the layout before, and
  /// mounted a file system of their own over it, which answers when it likes: there is nothing in it then.
  public static func open(_ path: String, _ flags: Int32) -> Int32 {
    let former = Place.former.path + "/"
    guard path.hasPrefix(former) else { return Glibc.open(path.originalPath, flags) }
    // A link in its place would lead to such a file system before that can be seen.
    let directory = Glibc.open(Place.former.path, __O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard directory >= 0 else { return directory }
    defer { close(directory) }
    guard MountedFileSystem.answers(directory) else {
      errno = ENOENT
      return -1
    }
    return openat(directory, String(path.dropFirst(former.count)).originalPath, flags | O_NOFOLLOW)
  }

  // MARK: making them

  /// Makes root's directory, if it is missing, and gives it a file system of its own while it is empty. Returns what
  /// root is to be told of it. For root.
  @discardableResult public static func makeRootsDirectory() throws(Complaint) -> [String] {
    if mkdir(ofRoot, 0o755) == 0 {
      // mkdir takes the umask off. In /run nobody but root can have put anything else in its place.
      let descriptor = Glibc.open(ofRoot, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      if descriptor >= 0 {
        fchmod(descriptor, 0o755)
        close(descriptor)
      }
    } else if errno != EEXIST {
      throw Complaint(.obstacle, what: "cannot create \(ofRoot): \(systemWords(errno))", code: errno)
    }
    closeToGroup()
    do throws(DirectoryRefusal) {
      let directory = try CheckedDirectory(path: ofRoot)
      var notices: [String] = []
      if directory.isShared {
        notices.append(
          "\(ofRoot) is of the layout before, in which all users put files into one directory — restart the machine, or"
            + " remove it while no indexed program runs")
      }
      if !separate(directory) {
        notices.append(
          "\(ofRoot) has no file system of its own, and segments can take all room in the one that it is in —"
            + " enable run-allocs.mount, or start allocsd while it is empty")
      }
      return notices
    } catch {
      throw error.complaint(ofRoot, "remove it, and start allocsd again")
    }
  }

  /// Takes away the right of root's group to write to root's directory, which `make` gives for a moment: a server that
  /// ended in that moment has left it.
  private static func closeToGroup() {
    let descriptor = Glibc.open(ofRoot, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_uid == 0, status.st_gid == 0, status.st_mode & 0o7777 == 0o775
    else { return }
    fchmod(descriptor, 0o755)
  }

  /// Whether less than a quarter of the files or bytes is left that root's directory has room for.
  public static var isRootsNearlyFull: Bool {
    var system = statvfs()
    guard statvfs(ofRoot, &system) == 0 else { return false }
    func isShort(_ left: UInt64, of all: UInt64) -> Bool { all > 0 && left < all / 4 }
    return isShort(UInt64(clamping: system.f_ffree), of: UInt64(clamping: system.f_files))
      || isShort(UInt64(clamping: system.f_bavail), of: UInt64(clamping: system.f_blocks))
  }

  /// What systemd/run-allocs.mount says, too.
  static let memoryLimits = "uid=0,gid=0,size=25%,nr_inodes=100k"

  /// Gives root's directory a file system of its own, in which segments take no room from others in /run, as
  /// systemd/run-allocs.mount does: here where root starts the server by hand. Returns whether it has one.
  private static func separate(_ directory: borrowing CheckedDirectory) -> Bool {
    var outside = stat()
    guard stat(ofRoot + "/..", &outside) == 0 else { return false }
    guard UInt64(truncatingIfNeeded: outside.st_dev) == directory.device else { return true }
    // A mount hides what is there; and from a service that has mounts of its own, it hides what programs put there.
    guard isEmpty(directory), hasMountsOfAll() else { return false }
    let options = "mode=\(directory.isShared ? "1777" : "0755"),\(memoryLimits)"
    guard allocs_mount_memory("/proc/self/fd/\(directory.descriptor)", options) == 0 else { return false }
    // The descriptor leads to what is below the mount still: a program may have put its segment there meanwhile.
    if isEmpty(directory) { return true }
    allocs_unmount(ofRoot)
    return false
  }

  /// Whether what this process mounts is mounted for the machine's, or the container's, first process, too.
  private static func hasMountsOfAll() -> Bool {
    var own = stat()
    var first = stat()
    return stat("/proc/self/ns/mnt", &own) == 0 && stat("/proc/1/ns/mnt", &first) == 0 && own.st_ino == first.st_ino
  }

  private static func isEmpty(_ directory: borrowing CheckedDirectory) -> Bool {
    let descriptor = openat(directory.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    guard let entries = fdopendir(descriptor) else {
      close(descriptor)
      return false
    }
    defer { closedir(entries) }
    while let entry = readdir(entries) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 3) { ($0[0], $0[1], $0[2]) }
      }
      let dot = CChar(UInt8(ascii: "."))
      let isDots = name.0 == dot && (name.1 == 0 || name.1 == dot && name.2 == 0)
      guard isDots else { return false }
    }
    return true
  }

  /// Makes the directory of `user` in root's directory, if it is missing. For root. Returns its path; nil where root's
  /// directory is of the layout before, in which users have no directories.
  public static func makeDirectory(ofUser user: UInt32) throws(Complaint) -> String? {
    let place = Place.ofRoot(user: user)
    do throws(DirectoryRefusal) {
      let parent = try CheckedDirectory(path: ofRoot)
      guard !parent.isShared else { return nil }
      let code = make(place.name, in: parent, as: user)
      guard code == 0 || code == EEXIST else { throw DirectoryRefusal(code: code) }
      guard try CheckedDirectory(path: place.path).ownerID == user else { throw .untrusted("it isn't user \(user)'s") }
      return place.path
    } catch {
      throw error.complaint(place.path, "remove it as root")
    }
  }

  /// Makes a directory that belongs to `user` from the start: with that user's id, and with the rights that root's
  /// group has in root's directory for that moment. So root needs no capability but CAP_SETUID. To be called by a
  /// process with one thread. Returns 0, or the number of an error.
  private static func make(_ name: String, in parent: borrowing CheckedDirectory, as user: UInt32) -> Int32 {
    let directory = openat(parent.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { return errno }
    defer { close(directory) }
    guard fchmod(directory, 0o775) == 0 else { return errno }
    defer { fchmod(directory, 0o755) }
    guard seteuid(user) == 0 else { return errno }
    let code = mkdirat(directory, name, 0o700) == 0 ? 0 : errno
    // The real and the saved id are root's still. A process that is not root any more must not go on.
    guard seteuid(0) == 0 else { abort() }
    return code
  }

  /// A directory of the calling user's own, made if there is none yet. Throws if each place is taken by others, or may
  /// not be written to.
  ///
  /// - `isUsable`: whether a file can be put there; else errno says why not.
  public static func makeOwn(where isUsable: (String) -> Bool = { _ in true }) throws(Complaint) -> String {
    let user = geteuid()
    var why: [String] = []
    for place in Place.own(ofUser: user) {
      do throws(DirectoryRefusal) {
        try make(place)
        let directory = try CheckedDirectory(path: place.path)
        guard directory.ownerID == user else { throw .untrusted("it belongs to user \(directory.ownerID)") }
        guard isUsable(place.path) else { throw .system(errno) }
        return place.path
      } catch {
        why.append("\(place.path): \(error)")
      }
    }
    throw Complaint(
      .obstacle, what: "there is no directory of user \(user) for indexes (\(why.joined(separator: "; ")))",
      advice: "start allocsd as root, which makes one, or set ALLOCS_DIR")
  }

  private static func make(_ place: Place) throws(DirectoryRefusal) {
    guard let parentPath = place.parent else { return }
    if case .ofRoot = place { return }
    let parent = try CheckedDirectory.parent(of: place, parentPath)
    defer { close(parent) }
    guard mkdirat(parent, place.name, 0o700) == 0 else {
      if errno == EEXIST { return }
      throw DirectoryRefusal(code: errno)
    }
    // The umask may have taken bits off.
    let made = allocs_open_in(parent, place.name, O_RDONLY | O_DIRECTORY)
    guard made >= 0 else { return }
    var status = stat()
    if fstat(made, &status) == 0, status.st_uid == geteuid() { fchmod(made, 0o700) }
    close(made)
  }
}

/// Why a directory is not used.
public enum DirectoryRefusal: Error, Hashable, Sendable, CustomStringConvertible {
  case missing
  case notPermitted
  /// Descriptors or memory are short.
  case shortage(Int32)
  case system(Int32)
  /// Somebody else could do harm in it, for this reason.
  case untrusted(String)

  public init(code: Int32) {
    switch code {
    case ENOENT, ENOTDIR: self = .missing
    case EACCES, EPERM: self = .notPermitted
    case EMFILE, ENFILE, ENOMEM, ENOBUFS: self = .shortage(code)
    case ELOOP: self = .untrusted("a symbolic link leads there")
    case EXDEV: self = .untrusted("something is mounted over it")
    default: self = .system(code)
    }
  }

  public var description: String {
    switch self {
    case .missing: systemWords(ENOENT)
    case .notPermitted: systemWords(EACCES)
    case .shortage(let code), .system(let code): systemWords(code)
    case .untrusted(let why): why
    }
  }

  func complaint(_ path: String, _ advice: String) -> Complaint {
    Complaint(.obstacle, what: "cannot use \(path): \(self)", advice: advice)
  }
}

/// An open directory of segments that may be used: its path may lead elsewhere meanwhile.
public struct CheckedDirectory: ~Copyable {
  public let path: String
  /// Opened by O_PATH: for functions that take a directory and a name.
  public let descriptor: Int32
  public let ownerID: UInt32
  /// Whether more users than its owner may put files there.
  public let isShared: Bool
  public let device: UInt64
  public let inode: UInt64
  /// Whether the caller named it.
  private let isNamed: Bool

  /// A path that is none of the places of `SharedDirectories` was named by the caller: it may be reached through links,
  /// and be anybody's.
  public init(path: String) throws(DirectoryRefusal) {
    let place = SharedDirectories.Place(path: path)
    let descriptor = try Self.open(path, place)
    let status: stat
    do throws(DirectoryRefusal) {
      status = try Self.check(descriptor, place)
    } catch {
      close(descriptor)
      throw error
    }
    self.path = path
    self.descriptor = descriptor
    ownerID = status.st_uid
    isShared = Self.isShared(status)
    device = UInt64(truncatingIfNeeded: status.st_dev)
    inode = UInt64(truncatingIfNeeded: status.st_ino)
    isNamed = place == nil
  }

  private static func isShared(_ status: stat) -> Bool { status.st_mode & (S_IWGRP | S_IWOTH) != 0 }

  private static func check(_ descriptor: Int32, _ place: SharedDirectories.Place?) throws(DirectoryRefusal) -> stat {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw DirectoryRefusal(code: errno) }
    guard let place else { return status }
    if place.isCommon {
      guard status.st_uid == 0 else { throw .untrusted("it belongs to user \(status.st_uid), not to root") }
      guard !isShared(status) || status.st_mode & S_ISVTX != 0 else {
        throw .untrusted("anybody may remove the files of others in it")
      }
    } else if isShared(status) {
      throw .untrusted("others than its owner may write to it")
    }
    return status
  }

  deinit { close(descriptor) }

  /// Whether a file of that user can have been put here by that user: else somebody who may write to the directory has
  /// moved or linked it. In a directory that the caller named, root's programs may have put theirs, too.
  public func canHaveFile(of user: UInt32) -> Bool { isShared || user == ownerID || isNamed && user == 0 }

  private static func open(_ path: String, _ place: SharedDirectories.Place?) throws(DirectoryRefusal) -> Int32 {
    guard let place, let parentPath = place.parent else {
      let flags = __O_PATH | O_DIRECTORY | O_CLOEXEC | (place == nil ? 0 : O_NOFOLLOW)
      let descriptor = Glibc.open(path.originalPath, flags)
      guard descriptor >= 0 else { throw DirectoryRefusal(code: errno == ENOTDIR && isLink(path) ? ELOOP : errno) }
      // Whoever has made that directory may have mounted a file system of their own over it.
      guard place != .former || MountedFileSystem.answers(descriptor) else {
        close(descriptor)
        throw .untrusted("\(path) is a file system of its user's")
      }
      return descriptor
    }
    let parent = try Self.parent(of: place, parentPath)
    defer { close(parent) }
    let descriptor = allocs_open_in(parent, place.name, __O_PATH | O_DIRECTORY)
    guard descriptor >= 0 else {
      if descriptor == 0 &- ENOTDIR { throw .untrusted("it is no directory") }
      throw DirectoryRefusal(code: 0 &- descriptor)
    }
    return descriptor
  }

  /// The directory in which a user's own directory is, if nobody else could exchange it.
  static func parent(of place: SharedDirectories.Place, _ path: String) throws(DirectoryRefusal) -> Int32 {
    let descriptor = Glibc.open(path, __O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard descriptor >= 0 else { throw DirectoryRefusal(code: errno) }
    // To open it so sets nothing in motion; to ask for its status may.
    if case .ofSession(let user) = place, geteuid() == 0, user != 0, !MountedFileSystem.answers(descriptor) {
      close(descriptor)
      throw .untrusted("\(path) is a file system of its user's")
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      let code = errno
      close(descriptor)
      throw DirectoryRefusal(code: code)
    }
    let isOthers = status.st_mode & (S_IWGRP | S_IWOTH) != 0
    let isTrusted: Bool
    switch place {
    case .ofRoot: isTrusted = status.st_uid == 0 && !isOthers
    case .ofSession(let user): isTrusted = status.st_uid == user && !isOthers
    default: isTrusted = true
    }
    guard isTrusted else {
      close(descriptor)
      // In the layout before, users have no directories in root's.
      if case .ofRoot = place, status.st_uid == 0 { throw .missing }
      throw .untrusted("\(path) is of user \(status.st_uid), mode \(String(status.st_mode & 0o7777, radix: 8))")
    }
    return descriptor
  }

  private static func isLink(_ path: String) -> Bool {
    var status = stat()
    return lstat(path.originalPath, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
  }
}
