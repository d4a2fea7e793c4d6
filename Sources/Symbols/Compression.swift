// SPDX-License-Identifier: Apache-2.0
// Unpacking of what libelf 0.188 can't unpack: sections compressed with zstd, and .gnu_debugdata, which is an .xz file.
// And of sections compressed in zlib's format, for which libelf takes twice the time: a question that starts from
// nothing, about a call in libc, spends most of its time here.
//
// The packed bytes come from any file: their claims about sizes may be lies. The result never exceeds the caller's
// bound, the memory of the .xz decoder has a bound of its own, and memory that was taken only because of a claim is
// given back untouched.

import Bounds
import CDeflate
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

  /// The `size` bytes that `packed`, in zlib's format, stands for, and no other number of them; the caller deallocates
  /// them.
  static func zlib(_ packed: Slice<UnsafeRawBufferPointer>, size: Int) -> UnsafeMutableRawBufferPointer? {
    let packed = UnsafeRawBufferPointer(rebasing: packed)
    // A byte stands for 1,032 at most.
    guard size > 0, size / 1032 <= packed.count, let decompressor = libdeflate_alloc_decompressor() else { return nil }
    defer { libdeflate_free_decompressor(decompressor) }
    guard let result = malloc(size) else { return nil }
    // Without a place for the number of bytes that come out, it has to be `size`.
    guard
      libdeflate_zlib_decompress(decompressor, packed.baseAddress, packed.count, result, size, nil)
        == LIBDEFLATE_SUCCESS
    else {
      free(result)
      return nil
    }
    return UnsafeMutableRawBufferPointer(start: result, count: size)
  }

  /// As `zlib`, in the format of zstd.
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
    guard let start = packed.bindMemory(to: UInt8.self).baseAddress, limit > 0 else { return nil }
    var decoder = lzma_stream()
    guard lzma_stream_decoder(&decoder, decoderLimit, concatenated) == LZMA_OK else { return nil }
    defer { lzma_end(&decoder) }
    decoder.next_in = start
    decoder.avail_in = packed.count
    // It grows with what comes out: what a header promises is not believed.
    var capacity = min(limit, 1 << 20)
    guard var result = malloc(capacity) else { return nil }
    var written = 0
    var meter = BudgetMeter(interval: 1)
    while meter.goesOn() {
      decoder.next_out = result.assumingMemoryBound(to: UInt8.self) + written  // bounded: it is below `capacity`
      decoder.avail_out = min(capacity &- written, 1 << 20)
      let room = decoder.avail_out
      let status = lzma_code(&decoder, LZMA_FINISH)
      written &+= room &- decoder.avail_out
      if status == LZMA_STREAM_END, written > 0 { return UnsafeMutableRawBufferPointer(start: result, count: written) }
      guard status == LZMA_OK else { break }
      if written == capacity {
        guard capacity < limit else { break }
        capacity = min(limit, capacity &* 2)
        guard let grown = realloc(result, capacity) else { break }
        result = grown
      }
    }
    free(result)
    return nil
  }
}
