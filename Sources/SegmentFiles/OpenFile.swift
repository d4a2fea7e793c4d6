// SPDX-License-Identifier: Apache-2.0
// The owner of a segment's descriptor, and the only place where it is opened or closed.
//
// A name in a directory may belong to anything: a pipe, a device, another user's file that has a
// second name here. So a name is first opened without the rights to read or write (O_PATH), which
// waits for nobody and sets nothing in motion; then looked at; then that very file is opened.

import ByteText
import CLibrary
import COpening
import Glibc
import SharedLayout
import SystemAccess

/// Why a file is not opened.
package enum FileRefusal: Error, Hashable {
  /// Its kind or its owner forbids that.
  case ignored(IgnoredFile.Reason)
  /// The system forbids it: an `errno` value.
  case system(Int32)
}

/// Owns the descriptor of a regular file that has no other name.
package struct OpenedFile: ~Copyable {
  package let descriptor: Int32
  package let status: stat

  /// Opens the file `name` in an open directory with the access `flags`.
  package init(in directory: Int32, _ name: String, _ flags: Int32 = O_RDONLY) throws(FileRefusal) {
    // The name may come from a caller, and then lead through other directories, as `allocs_open_in`
    // refuses.
    guard !name.isEmpty, !name.contains("/") else { throw .system(EINVAL) }
    let found = allocs_open_in(directory, name.originalPath, __O_PATH)
    guard found >= 0 else {
      switch 0 &- found {
      case ELOOP: throw .ignored(.symbolicLink)
      case ENOENT: throw .ignored(.gone)
      case let code: throw .system(code)
      }
    }
    defer { close(found) }
    var status = stat()
    guard fstat(found, &status) == 0 else { throw .system(errno) }
    if let reason = IgnoredFile.Reason(ofFile: status) { throw .ignored(reason) }
    let access = flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    var descriptor = open("/proc/self/fd/\(found)", access)
    if descriptor < 0, errno == ENOENT || errno == ENOTDIR {
      // Where no /proc is mounted, the name has to do; the file must still be the file looked at.
      descriptor = allocs_open_in(directory, name.originalPath, access)
      if descriptor < 0 { errno = 0 &- descriptor }
    }
    guard descriptor >= 0 else { throw .system(errno) }
    var now = stat()
    guard fstat(descriptor, &now) == 0, FileNumber(now) == FileNumber(status) else {
      close(descriptor)
      throw .ignored(.gone)
    }
    self.descriptor = descriptor
    self.status = now
  }

  deinit { close(descriptor) }

  /// Gives the descriptor to a caller that closes it from now on.
  package consuming func release() -> Int32 {
    let descriptor = descriptor
    discard self
    return descriptor
  }
}

/// An open segment, of which the start was read: once, so that whatever is decided by its header is
/// decided by the same numbers.
package struct OpenFile: ~Copyable {
  private let file: OpenedFile
  package var descriptor: Int32 { file.descriptor }
  package let size: UInt64
  package let ownerID: UInt32
  package let identity: FileNumber
  /// The directory that it was opened in.
  package let directory: FileNumber
  /// Up to the size of a header.
  private let start: [UInt8]

  package init(path: String) throws(Complaint) {
    let (parent, name) = Self.split(path)
    let directory = try CheckedDirectory.ofSegment(path, parent)
    let file = try Self.opened(name, in: directory, path)
    let owner = file.status.st_uid
    let start = try Self.start(file.descriptor, path)
    size = UInt64(max(0, file.status.st_size))
    ownerID = owner
    identity = FileNumber(file.status)
    self.directory = FileNumber(device: directory.device, inode: directory.inode)
    self.start = start
    self.file = file
  }

  private static func opened(
    _ name: String, in directory: borrowing CheckedDirectory, _ path: String
  ) throws(Complaint) -> OpenedFile {
    let file: OpenedFile
    do throws(FileRefusal) {
      file = try OpenedFile(in: directory.descriptor, name)
    } catch {
      throw error.complaint(path)
    }
    let owner = file.status.st_uid
    guard directory.canHaveFile(of: owner) else {
      throw .notASegment(path: path, why: "it is user \(owner)'s, in a directory of user \(directory.ownerID)'s")
    }
    return file
  }

  private static func start(_ descriptor: Int32, _ path: String) throws(Complaint) -> [UInt8] {
    var failure: Int32 = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: SegmentHeader.size) { buffer, filled in
      while filled < SegmentHeader.size, let start = buffer.baseAddress {
        // A hole reads as zeros and stays one.
        let place = off_t(truncatingIfNeeded: filled)
        let count = pread(descriptor, start.advanced(by: filled), SegmentHeader.size &- filled, place)
        if count == 0 { return }
        if count < 0, errno != EINTR {
          failure = errno
          return
        }
        filled &+= max(0, count)
      }
    }
    guard failure == 0 else { throw .system(path: path, operation: "read", why: systemWords(failure)) }
    return bytes
  }

  /// The directory of a path, and the name in it.
  package static func split(_ path: String) -> (directory: String, name: String) {
    guard let slash = path.lastIndex(of: "/") else { return (".", path) }
    return (slash == path.startIndex ? "/" : String(path[..<slash]), String(path[path.index(after: slash)...]))
  }

  /// The file's present size, nil if the system won't say.
  package var presentSize: UInt64? {
    var status = stat()
    return fstat(descriptor, &status) == 0 ? UInt64(max(0, status.st_size)) : nil
  }

  /// Whether `path` leads to this file, and not to another one, or nowhere.
  package func isAt(_ path: String) -> Bool { FileNumber(path: path) == identity }

  /// Whether an agent holds its lock of the file: it has it mapped (SegmentEvidence.swift).
  package var isLocked: Bool { SegmentEvidence.isLocked(descriptor) }

  /// The bytes at the file's start, as they were when it was opened: as many as a header has, or
  /// all of a shorter file.
  package func withStart<Result>(_ body: (UnsafeRawBufferPointer) throws(Complaint) -> Result) throws(Complaint)
    -> Result
  {
    var failure: Complaint?
    let result = start.withUnsafeBytes { bytes -> Result? in
      do throws(Complaint) {
        return try body(bytes)
      } catch {
        failure = error
        return nil
      }
    }
    guard let result else { throw failure ?? Complaint(.unreadable, what: "can't read the start of a segment") }
    return result
  }
}

extension CheckedDirectory {
  /// The directory at `parent`, in which the file at `path` is to be opened.
  package static func ofSegment(_ path: String, _ parent: String) throws(Complaint) -> CheckedDirectory {
    do throws(DirectoryRefusal) {
      return try CheckedDirectory(path: parent)
    } catch {
      switch error {
      case .missing: throw .noSuchFile(path: path)
      case .notPermitted: throw .notPermitted(path: path)
      case .shortage(let code), .system(let code):
        throw .system(path: path, operation: "open", why: systemWords(code))
      case .untrusted(let why): throw .notASegment(path: path, why: "its directory is not trusted: \(why)")
      }
    }
  }

  package var identity: FileNumber { FileNumber(device: device, inode: inode) }
}

extension FileRefusal {
  package func complaint(_ path: String) -> Complaint {
    switch self {
    case .ignored(let reason):
      switch reason {
      case .gone: .noSuchFile(path: path)
      case .symbolicLink: .notASegment(path: path, why: "it is a symbolic link")
      case .directory: .notASegment(path: path, why: "it is a directory")
      case .specialFile: .notASegment(path: path, why: "it is not a regular file")
      case .hardLink: .notASegment(path: path, why: "it has several names, by hard links")
      case .foreign:
        .notASegment(
          path: path, why: "it belongs neither to its user nor to root, or is in the directory of somebody else")
      }
    case .system(let code):
      switch code {
      case ENOENT, ENOTDIR: .noSuchFile(path: path)
      case EACCES, EPERM: .notPermitted(path: path)
      case EXDEV: .notASegment(path: path, why: "something is mounted over it")
      default: .system(path: path, operation: "open", why: systemWords(code))
      }
    }
  }

  /// The `errno` value that tells the refusal best.
  var code: Int32 {
    switch self {
    case .ignored(.gone): ENOENT
    case .ignored(.symbolicLink): ELOOP
    case .ignored: EINVAL
    case .system(let code): code
    }
  }
}

extension IgnoredFile.Reason {
  /// Why a file of this kind is no segment and no control file; nil for a regular file of one name.
  init?(ofFile status: stat) {
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      guard status.st_nlink > 1 else { return nil }
      self = .hardLink
    case S_IFLNK: self = .symbolicLink
    case S_IFDIR: self = .directory
    default: self = .specialFile
    }
  }
}
