// SPDX-License-Identifier: Apache-2.0
// The token by which whoever asks over TCP shows that they may. It is made anew at each start, or read from a file that
// nobody else may read.

import ByteText
import Glibc
import SystemAccess

/// A secret word.
package struct Token: Sendable {
  package let text: String

  private static let lengths = 32...512

  /// 256 bits of the kernel's randomness.
  package init() {
    var source = SystemRandomNumberGenerator()
    text = (0..<32).map { _ in
      let digits = String(UInt8.random(in: 0...255, using: &source), radix: 16)
      return digits.utf8.count < 2 ? "0\(digits)" : digits
    }.joined()
  }

  /// The first line of a file of the caller's, which nobody else may read.
  package init(file: String) throws(Complaint) {
    func refusal(_ why: String) -> Complaint {
      Complaint(
        .usage, what: "cannot take the token from \(file): \(why)",
        advice: "put a random word into a file of mode 0600: head -c 32 /dev/urandom | base64 > FILE")
    }
    let descriptor = open(file.originalPath, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
    guard descriptor >= 0 else { throw refusal(systemWords(errno)) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { throw refusal("it is no file") }
    guard status.st_uid == geteuid() || status.st_uid == 0, status.st_mode & 0o077 == 0 else {
      throw refusal("others may read or write it, or it is another user's")
    }
    var bytes = [UInt8](repeating: 0, count: 1024)
    let count = read(descriptor, &bytes, bytes.count)
    guard count >= 0 else { throw refusal(systemWords(errno)) }
    let line = bytes[..<count].prefix { $0 != 0x0A && $0 != 0x0D }
    guard Self.lengths.contains(line.count), line.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      let (least, most) = (Self.lengths.lowerBound, Self.lengths.upperBound)
      throw refusal("its first line must have \(least) to \(most) characters, and no blanks")
    }
    text = String(decoding: line, as: UTF8.self)
  }

  /// A token that was made or read elsewhere.
  package init(text: String) { self.text = text }

  /// Whether `other` is the token, in a time that says nothing of how much of it is right.
  package func equals(_ other: String) -> Bool {
    let (own, others) = (Array(text.utf8), Array(other.utf8))
    var difference: UInt8 = own.count == others.count ? 0 : 1
    for index in own.indices { difference |= own[index] ^ (index < others.count ? others[index] : 0) }
    return difference == 0
  }

  /// The token as it stands in a link.
  package var inLink: String {
    text.utf8.map { byte in
      switch byte {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F, 0x7E: String(UnicodeScalar(byte))
      default: "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }.joined()
  }
}
