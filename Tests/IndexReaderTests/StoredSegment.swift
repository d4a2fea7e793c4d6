// SPDX-License-Identifier: Apache-2.0
// Segments that agents of other builds wrote, stored as text beside the tests (scripts/store-segment), and written out
// again as the sparse files that they were.

import Foundation
import TestSupport
import Testing

/// A segment file made from its stored text; removed when this goes.
final class StoredSegment {
  let path: String

  /// `name`: a file of Segments, without its extension.
  init(_ name: String) throws {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "Segments")
    let text = try String(contentsOf: folder.appending(path: "\(name).segment"), encoding: .utf8)
    let lines = text.split(separator: "\n").map { $0.split(separator: " ") }
    path = unusedPath("stored") + ".seg"
    let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let size = try #require(lines.first.flatMap { $0.first == "size" ? Int($0[1], radix: 16) : nil })
    try #require(ftruncate(descriptor, off_t(size)) == 0)
    for line in lines.dropFirst() {
      let offset = try #require(Int(line[0], radix: 16))
      let digits = Array(line[1].utf8)
      let bytes = try stride(from: 0, to: digits.count, by: 2).map { place in
        try #require(UInt8(String(decoding: digits[place..<place + 2], as: UTF8.self), radix: 16))
      }
      try #require(pwrite(descriptor, bytes, bytes.count, off_t(offset)) == bytes.count)
    }
  }

  deinit { unlink(path) }

  /// Changes a number of four bytes of the file.
  func store(_ value: UInt32, at offset: Int) throws {
    let descriptor = open(path, O_WRONLY | O_CLOEXEC)
    defer { close(descriptor) }
    try #require(withUnsafeBytes(of: value.littleEndian) { pwrite(descriptor, $0.baseAddress, 4, off_t(offset)) } == 4)
  }
}
