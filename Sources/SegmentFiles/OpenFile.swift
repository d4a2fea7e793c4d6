// SPDX-License-Identifier: Apache-2.0
// The owner of a segment's descriptor, and the only place where it is opened or closed.

import ByteText
import Glibc
import SystemAccess

/// A regular file, opened for reading without following a symbolic link or waiting for a pipe's
/// other end.
package struct OpenFile: ~Copyable {
  package let descriptor: Int32
  package let size: UInt64
  package let ownerID: UInt32
  package let identity: FileNumber

  package init(path: String) throws(Complaint) {
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
    self.size = UInt64(max(0, status.st_size))
    self.ownerID = status.st_uid
    identity = FileNumber(status)
  }

  deinit { close(descriptor) }

  /// The file's present size, nil if the system won't say.
  package var presentSize: UInt64? {
    var status = stat()
    return fstat(descriptor, &status) == 0 ? UInt64(max(0, status.st_size)) : nil
  }

  /// Whether `path` leads to this file, and not to another one, or nowhere.
  package func isAt(_ path: String) -> Bool { FileNumber(path: path) == identity }

  /// Whether an agent holds its lock of the file: it has it mapped (SegmentEvidence.swift).
  package var isLocked: Bool { SegmentEvidence.isLocked(descriptor) }

  /// Reads into `buffer` from the file's start; returns the bytes that were there. A hole reads as
  /// zeros and stays one.
  package func readStart(into buffer: UnsafeMutableRawBufferPointer, path: String) throws(Complaint) -> Int {
    var filled = 0
    while filled < buffer.count {
      let count = pread(descriptor, buffer.baseAddress! + filled, buffer.count - filled, off_t(filled))
      if count == 0 { break }
      if count < 0 {
        if errno == EINTR { continue }
        throw .system(path: path, operation: "read", why: systemWords(errno))
      }
      filled += count
    }
    return filled
  }
}
