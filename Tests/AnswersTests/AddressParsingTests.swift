// SPDX-License-Identifier: Apache-2.0
// Addresses as people and scripts write them.

import Answers
import SystemAccess
import TestSupport
import Testing

@Suite("Addresses", .bounded)
struct AddressParsingTests {
  @Test(
    "hexadecimal after 0x, or decimal",
    arguments: [
      ("0x0", 0), ("0", 0), ("00010", 10), ("0x10", 16), ("0X1f", 31), ("0xABCdef", 0xabcdef),
      ("0x00000000000000000000000000000001", 1), ("  0x10\r", 16), ("\t42 ", 42),
      ("0xffffffffffffffff", UInt64.max), ("18446744073709551615", UInt64.max),
      ("0x55d0c0ffee10", 0x55d0_c0ff_ee10),
    ] as [(String, UInt64)])
  func accepted(text: String, address: UInt64) throws {
    #expect(try parseAddress(text) == address)
    #expect(try parseAddresses(Array(text.utf8)) == [address])
  }

  @Test(
    "anything else is refused, with the reason",
    arguments: [
      ("", "empty"), ("   ", "empty"), ("-1", "negative"), ("-0x10", "negative"), ("+5", "sign"),
      ("0x", "nothing follows 0x"), ("0xg", "not a number"), ("0x1 2", "not a number"), ("-", "not a number"),
      ("12345z", "not a number"), ("1e5", "write 0x before it"), ("7ffdeadbeef", "write 0x before it"),
      ("deadbeef", "write 0x before it"), ("1_000", "not a number"), ("１２", "not a number"),
      ("0x10000000000000000", "2^64"), ("18446744073709551616", "2^64"),
      ("99999999999999999999999999999999999999", "2^64"), ("0x1\0", "not a number"), ("nil", "not a number"),
    ])
  func refused(text: String, reason: String) {
    let error = #expect(throws: Complaint.self) { try parseAddress(text) }
    #expect(error?.kind == .usage)
    #expect(error?.description.contains(reason) == true, "\(error?.description ?? "")")
  }

  @Test("what is refused is shown so that a terminal does not act upon it, and not at length")
  func shown() {
    let error = #expect(throws: Complaint.self) {
      try parseAddress("\u{1B}[31m" + String(repeating: "x", count: 10_000))
    }
    let text = error?.description ?? ""
    #expect(!text.contains("\u{1B}"))
    #expect(text.count < 200)
  }

  @Test("lists pass over empty lines and name the line that is wrong")
  func lists() throws {
    #expect(try parseAddresses(Array("0x10\n\n  \n17\r\n0x12".utf8)) == [16, 17, 18])
    #expect(try parseAddresses([]).isEmpty)
    let error = #expect(throws: Complaint.self) { try parseAddresses(Array("0x10\n\nfoo\n".utf8)) }
    #expect(error?.description.hasPrefix("line 3: \"foo\"") == true)
    #expect(throws: Complaint.self) { try parseAddresses([0x30, 0x78, 0xFF, 0xFE]) }
  }

  @Test("a process id is decimal digits, from 1 to 2^31 - 1")
  func processIDs() {
    #expect(parseProcessID("1") == 1 && parseProcessID("2147483647") == .max)
    for text in ["", "0", "-1", "+1", "0x1", " 1", "1a", "2147483648", "１"] {
      #expect(parseProcessID(text) == nil, "\(text)")
    }
  }
}
