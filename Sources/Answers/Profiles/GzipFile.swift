// SPDX-License-Identifier: Apache-2.0
// Bytes compressed in the format of gzip (RFC 1952), by zlib.

import CZlib

enum GzipFile {
  /// The bytes as a file of gzip, of one member; nil if zlib gets no memory.
  static func compress(_ bytes: [UInt8]) -> [UInt8]? {
    var stream = z_stream()
    guard allocs_gzip_begin(&stream) == Z_OK else { return nil }
    defer { deflateEnd(&stream) }
    var result: [UInt8] = []
    // zlib counts what it is given in 32 bits.
    let pieceSize = 1 << 20
    var start = 0
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    repeat {
      let rest = bytes[start...]
      let input = rest.prefix(pieceSize)  // bounded: a constant of this function
      let isLast = input.count == rest.count
      let code = input.withUnsafeBytes { input in
        stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
        stream.avail_in = UInt32(clamping: input.count)
        return piece.withUnsafeMutableBufferPointer { output -> Int32 in
          var code: Int32
          repeat {
            stream.next_out = output.baseAddress
            stream.avail_out = UInt32(clamping: output.count)
            code = deflate(&stream, isLast ? Z_FINISH : Z_NO_FLUSH)
            // bounded: zlib leaves no more than it was given
            result += output.prefix(output.count &- Int(clamping: stream.avail_out))
          } while stream.avail_out == 0
          return code
        }
      }
      guard code == Z_OK || code == Z_STREAM_END || code == Z_BUF_ERROR else { return nil }
      start = input.endIndex
    } while start < bytes.count
    return result
  }
}
