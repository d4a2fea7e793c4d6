// SPDX-License-Identifier: Apache-2.0
// Unpacking of what libelf 0.188 can't unpack: sections compressed with zstd, and .gnu_debugdata, which is an .xz file.
//
// The packed bytes come from any file: their claims about sizes may be lies. The result never exceeds the caller's
// bound, the memory of the .xz decoder has a bound of its own, and memory that was taken only because of a claim is
// given back untouched.

import CLzma
import CZstd
import Glibc

enum Compression {
  /// ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD of the ELF specification; the <elf.h> of Debian 12 has the first one only.
  static let zlib: UInt32 = 1
  static let zstd: UInt32 = 2

  /// Memory that the decoder of .xz may take for itself: the dictionary of `xz -9` takes 64 MiB.
  private static let decoderLimit: UInt64 = 128 << 20

  /// LZMA_CONCATENATED, a macro that Swift doesn't see.
  private static let concatenated: UInt32 = 8

  /// The `size` bytes that `packed` stands for, and no other number of them; the caller deallocates them.
  static func zstd(_ packed: Slice<UnsafeRawBufferPointer>, size: Int) -> UnsafeMutableRawBufferPointer? {
    let packed = UnsafeRawBufferPointer(rebasing: packed)
    guard size > 0 else { return nil }
    let result = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
    guard ZSTD_decompress(result.baseAddress, size, packed.baseAddress, packed.count) == size else {
      result.deallocate()
      return nil
    }
    return result
  }

  /// The contents of an .xz file of any number of streams, if they are `limit` bytes at most; the caller deallocates
  /// them.
  static func xz(_ packed: UnsafeRawBufferPointer, limit: Int) -> UnsafeMutableRawBufferPointer? {
    guard let start = packed.bindMemory(to: UInt8.self).baseAddress else { return nil }
    // It grows with what comes out: what a header promises is not believed.
    var capacity = min(limit, max(1 << 16, packed.count &* 4))
    while true {
      let result = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
      var memory = decoderLimit
      var read = 0
      var written = 0
      let status = lzma_stream_buffer_decode(
        &memory, concatenated, nil, start, &read, packed.count,
        result.bindMemory(to: UInt8.self).baseAddress, &written, capacity)
      if status == LZMA_OK, written > 0 {
        // The pages behind `written` were never touched.
        return UnsafeMutableRawBufferPointer(start: result.baseAddress, count: written)
      }
      result.deallocate()
      guard status == LZMA_BUF_ERROR, capacity < limit else { return nil }
      capacity = min(limit, capacity &* 4)
    }
  }
}
