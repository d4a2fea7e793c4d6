// SPDX-License-Identifier: Apache-2.0
// Where the bytes of an ELF file come from: an open file, or memory. Every number in them is foreign.

import ByteText
import Glibc

/// Bytes of a file by their places.
public struct ELFBytes {
  private let read: (_ offset: UInt64, _ count: Int) -> [UInt8]

  /// Of an open file, which the caller keeps open for as long as this is used.
  public init(descriptor: Int32) {
    read = { offset, count in
      guard let place = off_t(exactly: offset), count > 0 else { return [] }
      return [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
        size = max(0, pread(descriptor, buffer.baseAddress, count, place))
      }
    }
  }

  /// Of a file whose bytes these are.
  public init(_ bytes: [UInt8]) {
    read = { offset, count in
      guard let start = Int(exactly: offset), start < bytes.count else { return [] }
      return Array(bytes[start...].prefix(max(0, count)))
    }
  }

  /// Of memory that the caller keeps for as long as this is used.
  init(memory: UnsafeRawBufferPointer) {
    read = { offset, count in
      guard let start = Int(exactly: offset), start < memory.count else { return [] }
      return Array(memory[start...].prefix(max(0, count)))
    }
  }

  /// At most `count` bytes from `offset` on, fewer at the file's end; none where there can be none.
  public func bytes(at offset: UInt64, count: Int) -> [UInt8] { read(offset, count) }

  /// The text from `offset` on, up to a zero or of at most `limit` bytes.
  public func text(at offset: UInt64, limit: Int = 4096) -> ForeignText {
    ForeignText(reversibly: bytes(at: offset, count: limit).prefix { $0 != 0 })
  }
}

extension Collection<UInt8> where Index == Int {
  /// The number of `size` bytes at `offset` from the collection's start, lowest byte first; nil if it is not all there.
  func number(at offset: Int, size: Int) -> UInt64? {
    guard offset >= 0, size >= 0, size <= count, offset <= count &- size else { return nil }
    let start = startIndex &+ offset
    return stride(from: size &- 1, through: 0, by: -1).reduce(0) {
      $0 << 8 | UInt64(truncatingIfNeeded: self[start &+ $1])
    }
  }
}
