// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a recording are: in a file, or, of a snapshot that is taken to be exported at
// once, in memory.

import ByteText
import FileFacts
import Glibc

/// The bytes of a recording.
enum RecordingSource: ~Copyable {
  case file(RegularFile)
  case memory([UInt8])

  /// Reads bytes on any thread, while the source is there.
  struct Reader: Sendable {
    fileprivate let descriptor: Int32
    fileprivate let memory: [UInt8]

    /// At most `count` bytes from `offset` on; fewer at the end.
    func bytes(at offset: Int, _ count: Int) -> [UInt8] {
      guard offset >= 0, count > 0 else { return [] }
      guard descriptor >= 0 else {
        // bounded: offset and count are not negative
        return Array(memory.dropFirst(offset).prefix(count))
      }
      return [UInt8](unsafeUninitializedCapacity: count) { buffer, read in
        read = 0
        while read < count {
          // bounded: read is less than count, and the file ends below the limit of its size
          let result = pread(descriptor, buffer.baseAddress.map { $0 + read }, count - read, off_t(offset &+ read))
          if result < 0, errno == EINTR { continue }
          guard result > 0 else { break }
          read += result
        }
      }
    }
  }

  var reader: Reader {
    switch self {
    case .file(let file): Reader(descriptor: file.descriptor, memory: [])
    case .memory(let bytes): Reader(descriptor: -1, memory: bytes)
    }
  }

  var size: UInt64 {
    switch self {
    case .file(let file): file.size
    case .memory(let bytes): UInt64(clamping: bytes.count)
    }
  }

  func bytes(at offset: Int, _ count: Int) -> [UInt8] { reader.bytes(at: offset, count) }

  /// SEEK_DATA of lseek(2), which <unistd.h> has for GNU's sources only.
  private static let seekData: Int32 = 3

  /// The first place from `start` on that is in no hole; nil if there is none.
  func data(from start: Int) -> Int? {
    switch self {
    case .memory: return start
    case .file(let file):
      let data = lseek(file.descriptor, off_t(start), Self.seekData)
      if data < 0, errno == ENXIO { return nil }
      return max(start, Int(clamping: data))
    }
  }

  /// Whether `path` leads to the file.
  func isFile(at path: String) -> Bool {
    switch self {
    case .memory: return false
    case .file(let file):
      var own = stat()
      var other = stat()
      return fstat(file.descriptor, &own) == 0 && stat(path.originalPath, &other) == 0 && own.st_dev == other.st_dev
        && own.st_ino == other.st_ino
    }
  }
}
