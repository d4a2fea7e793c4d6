// SPDX-License-Identifier: Apache-2.0
// A file that is written from its beginning to its end: a recording, or one in another program's
// format.
//
// Others may write in the directory of the file, as in /tmp, and put something at its name. So
// nothing that is there is ever opened for writing: the bytes go to a new file, which nobody else
// can name, and `publish` puts that file at the name.
// - The directory is opened once; every step is relative to it.
// - A free name is taken by link(2), which replaces nothing. A regular file of the caller's own at
//   the name is replaced by rename(2); its other hard links keep their contents.
// - A file of another user, a symbolic link, a directory, a block device or a socket is refused,
//   and so are character devices but those that any program may write to: null, zero, full and tty.
//   A named pipe of the caller's own is written to.
// - /dev/stdout, /dev/stderr, /dev/fd/N and /proc/self/fd/N are the caller's own descriptors.
// - The new file has no name on file systems that can do so (O_TMPFILE): nothing is left of it if
//   the program is killed. Elsewhere its name begins with a point, and it is removed with this
//   value.

import ByteText
import Glibc
import SystemAccess

/// An open file, closed when this value goes; removed, too, if it was not published.
struct OutputFile: ~Copyable {
  /// Why a file can't be written.
  struct Failure: Error {
    var words: String
    init(_ code: Int32) { words = systemWords(code) }
    init(words: String) { self.words = words }
  }

  /// The file's place, until it is there.
  private struct Place {
    /// Of the directory.
    var directory: Int32
    var name: [CChar]
    /// The new file's name; nil while it has none.
    var temporary: [CChar]?
    /// Whether a file of the caller's own was there.
    var isTaken: Bool
  }

  private let descriptor: Int32
  private var place: Place?

  /// O_PATH and O_TMPFILE of open(2), which <fcntl.h> has for GNU's sources only; the second
  /// is with O_DIRECTORY.
  private static let pathOnly: Int32 = 0o10_000_000
  private static let withoutName: Int32 = 0o20_000_000 | O_DIRECTORY

  /// A new file for `path`. Throws if something is there that must not be replaced.
  init(path: String) throws(Failure) {
    if let number = Self.descriptor(named: path) {
      try self.init(duplicate: number)
      return
    }
    let slash = path.utf8.lastIndex(of: UInt8(ascii: "/"))
    let name = slash.map { String(path[path.utf8.index(after: $0)...]) } ?? path
    let parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    guard !name.isEmpty, name != ".", name != ".." else { throw Failure(EISDIR) }
    let directory = open(parent.originalPath, Self.pathOnly | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { throw Failure(errno) }
    var place = Place(directory: directory, name: name.originalPath, temporary: nil, isTaken: false)
    let opened: Int32
    do throws(Failure) {
      switch try Self.look(at: place, opensStreams: true) {
      case .nothing: break
      case .ownFile: place.isTaken = true
      case .stream(let stream):
        Glibc.close(directory)
        self.init(descriptor: stream, nil)
        return
      }
      opened = try Self.make(&place)
    } catch {
      Glibc.close(directory)
      throw error
    }
    self.init(descriptor: opened, place)
  }

  /// Standard output, through a descriptor of its own.
  static func standardOutput() throws(Failure) -> OutputFile { try OutputFile(duplicate: STDOUT_FILENO) }

  private init(duplicate number: Int32) throws(Failure) {
    let flags = fcntl(number, F_GETFL)
    guard flags >= 0, flags & O_ACCMODE != O_RDONLY else { throw Failure(EBADF) }
    let copy = fcntl(number, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else { throw Failure(errno) }
    self.init(descriptor: copy, nil)
  }

  private init(descriptor: Int32, _ place: consuming Place?) {
    self.descriptor = descriptor
    self.place = place
  }

  deinit {
    if let place {
      if let temporary = place.temporary { unlinkat(place.directory, temporary, 0) }
      Glibc.close(place.directory)
    }
    Glibc.close(descriptor)
  }

  /// Appends all of `bytes`.
  func write(_ bytes: [UInt8]) throws(Failure) {
    let code = writeAll(bytes, to: descriptor)
    guard code == 0 else { throw Failure(code) }
  }

  /// Puts the file at its name, once. Bytes may be appended afterwards. `isWhole`: waits until the
  /// bytes are on the disk, so that a machine that fails leaves the old file or the new.
  mutating func publish(isWhole: Bool) throws(Failure) {
    guard var place else { return }
    if isWhole, fsync(descriptor) != 0, ![EINVAL, EROFS].contains(errno) { throw Failure(errno) }
    if !place.isTaken {
      if link(place, as: place.name) {
        close(place)
        return
      }
      // Something has come there meanwhile; or the file system has no links.
      guard errno == EEXIST || place.temporary != nil else { throw Failure(errno) }
    }
    try replace(&place)
  }

  private mutating func replace(_ place: inout Place) throws(Failure) {
    if place.temporary == nil {
      let temporary = Self.temporaryName(for: place)
      guard link(place, as: temporary) else { throw Failure(errno) }
      place.temporary = temporary
      self.place = place
    }
    // Another file may be there than before: rename(2) follows no link.
    if case .stream = try Self.look(at: place, opensStreams: false) { throw Failure(EEXIST) }
    guard let temporary = place.temporary, renameat(place.directory, temporary, place.directory, place.name) == 0 else {
      throw Failure(errno)
    }
    place.temporary = nil
    close(place)
  }

  /// The place has the file: nothing is removed any more.
  private mutating func close(_ place: Place) {
    if let temporary = place.temporary { unlinkat(place.directory, temporary, 0) }
    Glibc.close(place.directory)
    self.place = nil
  }

  /// Gives the file a name that is free. Returns whether that was done; else `errno` says why not.
  private func link(_ place: Place, as name: [CChar]) -> Bool {
    guard let temporary = place.temporary else {
      let own = "/proc/self/fd/\(descriptor)"
      return linkat(AT_FDCWD, own, place.directory, name, AT_SYMLINK_FOLLOW) == 0
    }
    return linkat(place.directory, temporary, place.directory, name, 0) == 0
  }

  // MARK: opening

  private enum Found {
    case nothing
    case ownFile
    /// A pipe or a device, opened for writing if that was asked for; else -1.
    case stream(Int32)
  }

  /// The thing at the name. Throws if it must be left alone.
  private static func look(at place: Place, opensStreams: Bool) throws(Failure) -> Found {
    let found = openat(place.directory, place.name, pathOnly | O_NOFOLLOW | O_CLOEXEC)
    guard found >= 0 else {
      if errno == ENOENT { return .nothing }
      throw Failure(errno)
    }
    defer { Glibc.close(found) }
    var status = stat()
    guard fstat(found, &status) == 0 else { throw Failure(errno) }
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      guard status.st_uid == geteuid() else { throw foreign(status.st_uid) }
      return .ownFile
    case S_IFIFO:
      guard status.st_uid == geteuid() else { throw foreign(status.st_uid) }
    case S_IFCHR where writableDevices.contains(status.st_rdev): break
    case S_IFLNK: throw Failure(words: "it is a symbolic link, which is not followed")
    case S_IFDIR: throw Failure(EISDIR)
    case S_IFSOCK: throw Failure(words: "it is a socket")
    default: throw Failure(words: "it is a device")
    }
    guard opensStreams else { return .stream(-1) }
    // Waits for a reader of the pipe, as every writer does.
    let stream = open("/proc/self/fd/\(found)", O_WRONLY | O_CLOEXEC | O_NOCTTY)
    guard stream >= 0 else { throw Failure(errno) }
    return .stream(stream)
  }

  private static func foreign(_ user: UInt32) -> Failure { Failure(words: "it belongs to user \(user)") }

  /// Linux Documentation/admin-guide/devices.txt: null, zero, full and tty.
  private static let writableDevices: Set<dev_t> = [0x103, 0x105, 0x107, 0x500]

  private static func make(_ place: inout Place) throws(Failure) -> Int32 {
    let unnamed = openat(place.directory, ".", withoutName | O_WRONLY | O_CLOEXEC, 0o600)
    if unnamed >= 0 { return unnamed }
    // Older kernels take the flag for the writing of a directory.
    guard [EOPNOTSUPP, EISDIR, EINVAL, ENOENT].contains(errno) else { throw Failure(errno) }
    for _ in 0..<16 {
      let name = temporaryName(for: place)
      let file = openat(place.directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
      if file >= 0 {
        place.temporary = name
        return file
      }
      guard errno == EEXIST else { break }
    }
    throw Failure(errno)
  }

  private static func temporaryName(for place: Place) -> [CChar] {
    // A name has 255 bytes at most.
    let name = place.name.dropLast().prefix(200)
    let random = String(UInt64.random(in: 0 ... .max), radix: 36)
    return [[46], name, ".\(random)".utf8CString[...]].flatMap { $0 }
  }

  /// The descriptor that a path stands for.
  private static func descriptor(named path: String) -> Int32? {
    switch path {
    case "/dev/stdout": return STDOUT_FILENO
    case "/dev/stderr": return STDERR_FILENO
    default: break
    }
    for folder in ["/dev/fd/", "/proc/self/fd/"] where path.hasPrefix(folder) {
      guard let number = Int32(path.dropFirst(folder.count)), number >= 0 else { return nil }
      return number
    }
    return nil
  }
}
