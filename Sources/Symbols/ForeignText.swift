// SPDX-License-Identifier: Apache-2.0
// Texts that libelf and libdw point to, and what a question's budget means to whoever keeps answers.

import Bounds
import ByteText
import Glibc

/// Bytes of a name, path or other text of a file that are taken; a longer text is cut. No compiler writes such names,
/// while a file's string table may be one text of 2^30 bytes to which every entry refers.
let longestText = 1 << 14

/// What stands where a text was cut.
private let cutMark = "…"

extension String {
  /// Of at most `longestText` bytes.
  init(bounded text: UnsafePointer<CChar>) {
    let count = strnlen(text, longestText &+ 1)
    let bytes = UnsafeRawBufferPointer(start: text, count: Swift.min(count, longestText))
    let whole = String(decoding: bytes, as: UTF8.self)
    self = count > longestText ? "\(whole)\(cutMark)" : whole
  }

}

extension ForeignText {
  /// Of at most `longestText` bytes.
  init(bounded text: UnsafePointer<CChar>) { self.init(String(bounded: text)) }

  /// A path, by its bytes; empty if it is longer than the system takes.
  init(boundedPath text: UnsafePointer<CChar>) {
    let limit = 4096
    let count = strnlen(text, limit)
    self = count < limit ? ForeignText(reversibly: UnsafeRawBufferPointer(start: text, count: count)) : ""
  }
}

extension Budget {
  /// Whether the question that this thread answers has met a limit: then what was found may be a part, and is not kept
  /// for other questions.
  package static var hasEnded: Bool { current?.isExhausted ?? false }
}
