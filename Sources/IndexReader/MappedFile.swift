// SPDX-License-Identifier: Apache-2.0
// The owner of a segment's descriptor and mapping, and the only place where either is opened or
// closed.

import ByteText
import Glibc
import MappingGuard
import SystemAccess

/// A regular file, opened for reading without following a symbolic link or waiting for a pipe's
/// other end.
struct OpenFile: ~Copyable {
  let descriptor: Int32
  let size: UInt64
  let ownerID: UInt32
  let identity: FileNumber

  init(path: String) throws(Complaint) {
    // Without O_NONBLOCK, opening a pipe that someone put there would wait for its writer for ever.
    let descriptor = open(path.originalPath, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      switch errno {
      case ENOENT, ENOTDIR: throw .noSuchFile(path: path)
      case EACCES, EPERM: throw .notPermitted(path: path)
      case ELOOP: throw .notASegment(path: path, why: "it is a symbolic link")
      case ENXIO, ENODEV: throw .notASegment(path: path, why: "it is a socket or a device")
      case let code: throw .system(path: path, operation: "open", why: systemWords(code))
      }
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      let code = errno
      close(descriptor)
      throw .system(path: path, operation: "examine", why: systemWords(code))
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      let kind = status.st_mode & S_IFMT == S_IFDIR ? "it is a directory" : "it is not a regular file"
      throw .notASegment(path: path, why: kind)
    }
    self.descriptor = descriptor
    self.size = UInt64(clamping: status.st_size)
    self.ownerID = status.st_uid
    identity = FileNumber(status)
  }

  deinit { close(descriptor) }

  /// The file's present size, nil if the system won't say.
  var presentSize: UInt64? {
    var status = stat()
    return fstat(descriptor, &status) == 0 ? UInt64(clamping: status.st_size) : nil
  }

  /// Whether `path` leads to this file, and not to another one, or nowhere.
  func isAt(_ path: String) -> Bool { FileNumber(path: path) == identity }

  /// Whether an agent holds its lock of the file: it has it mapped (SegmentEvidence.swift).
  var isLocked: Bool { SegmentEvidence.isLocked(descriptor) }

  /// Reads into `buffer` from the file's start; returns the bytes that were there. A hole reads as
  /// zeros and stays one.
  func readStart(into buffer: UnsafeMutableRawBufferPointer, path: String) throws(Complaint) -> Int {
    var filled = 0
    while filled < buffer.count {
      let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])
      let count = pread(descriptor, rest.baseAddress, rest.count, off_t(truncatingIfNeeded: filled))
      if count == 0 { break }
      if count < 0 {
        if errno == EINTR { continue }
        throw .system(path: path, operation: "read", why: systemWords(errno))
      }
      filled &+= count  // at most as many as were asked for
    }
    return filled
  }
}

/// A shared, read-only mapping of a file's start, guarded against the file being cut; and the
/// windows that are mapped of the rest, when they are asked for.
struct MappedFile: ~Copyable, @unchecked Sendable {
  let file: OpenFile
  let start: UnsafeRawPointer
  let length: Int
  let windows: FileWindows
  private let entry: OpaquePointer

  /// Maps `length` bytes; the file must have them.
  init(_ file: consuming OpenFile, length: Int, path: String) throws(Complaint) {
    guard length > 0 else { throw .notASegment(path: path, why: "its header says that it has \(length) bytes") }
    // The mapping is far larger than the memory behind it, and nothing is ever written to it.
    let mapping = mmap(nil, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, file.descriptor, 0)
    guard let mapping, mapping != MAP_FAILED else {
      throw .system(path: path, operation: "map", why: systemWords(errno))
    }
    guard let entry = mapping_guard_add(mapping, length, false) else {
      munmap(mapping, length)
      throw .system(path: path, operation: "guard the mapping of", why: systemWords(ENOMEM))
    }
    windows = FileWindows(descriptor: file.descriptor, whole: entry)
    self.file = file
    self.start = UnsafeRawPointer(mapping)
    self.length = length
    self.entry = entry
  }

  deinit {
    windows.close()
    mapping_guard_remove(entry)
    munmap(UnsafeMutableRawPointer(mutating: start), length)
  }

  /// A page was missing when it was read, and zeros were put in its place; or a window could not be
  /// mapped.
  var isBroken: Bool { mapping_guard_is_broken(entry) || windows.failure != 0 }
}
