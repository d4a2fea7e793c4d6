// SPDX-License-Identifier: Apache-2.0
// Addresses and process ids as people and programs write them: an address is hexadecimal after 0x, or decimal. They are
// read here and nowhere else.

import SystemAccess

/// The address that `text` names: `0x` and hexadecimal digits, or decimal digits; blanks around it don't matter.
/// Throws `.usage` for anything else: empty, signed, not a number, 2^64 or more.
public func parseAddress(_ text: some StringProtocol) throws(Complaint) -> UInt64 {
  let bytes = Array(text.utf8)
  switch scanAddress(bytes, from: 0, to: bytes.count) {
  case .success(let address): return address
  case .failure(let fault): throw fault.error(of: String(text), line: nil)
  }
}

/// The addresses in `bytes`, one a line; empty lines are skipped. The complaint about a line has the line's number.
public func parseAddresses(_ bytes: [UInt8]) throws(Complaint) -> [UInt64] {
  var addresses: [UInt64] = []
  // The shortest line that scripts write is about 15 bytes: 0x, 12 digits and a newline.
  addresses.reserveCapacity(bytes.count / 15 + 1)
  var start = 0
  var line = 0
  while start < bytes.count {
    line &+= 1
    var end = start
    while end < bytes.count, bytes[end] != UInt8(ascii: "\n") { end &+= 1 }
    switch scanAddress(bytes, from: start, to: end) {
    case .success(let address): addresses.append(address)
    case .failure(.empty): break
    case .failure(let fault):
      throw fault.error(of: String(decoding: bytes[..<end][start...], as: UTF8.self), line: line)
    }
    start = end &+ 1
  }
  return addresses
}

/// The process id that `text` names, in decimal digits; nil for anything else, and for 0.
public func parseProcessID(_ text: some StringProtocol) -> Int32? {
  guard text.utf8.allSatisfy(isDecimal), let value = Int32(text), value > 0 else { return nil }
  return value
}

/// The fault in the text of an address.
enum AddressFault: Error {
  case empty
  case negative
  case signed
  case noDigits
  case hexadecimalWithoutPrefix
  case notANumber
  case tooLarge

  func error(of text: String, line: Int?) -> Complaint {
    let place = line.map { "line \($0): " } ?? ""
    let shown = TextLayout.fit(TextLayout.printable(text), columns: 40)
    switch self {
    case .empty:
      return Complaint(
        .usage, what: "\(place)the address is empty", advice: "give one, such as 0x55d0c0ffee10 or 94355")
    case .negative:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not an address: it is negative",
        advice: "write it unsigned, in hexadecimal after 0x or in decimal")
    case .signed:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not an address: it has a sign", advice: "leave the + out")
    case .noDigits:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not an address: nothing follows 0x",
        advice: "write hexadecimal digits after it")
    case .hexadecimalWithoutPrefix:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not a decimal number",
        advice: "if it is hexadecimal, write 0x before it")
    case .notANumber:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not an address: it is not a number",
        advice: "write hexadecimal digits after 0x, or decimal digits")
    case .tooLarge:
      return Complaint(
        .usage, what: "\(place)\"\(shown)\" is not an address: it is 2^64 or more",
        advice: "addresses go up to 0xffffffffffffffff")
    }
  }
}

/// Reads the address in `bytes[start..<end]`. It takes an array and two bounds, not a slice, as a batch calls it for
/// each of millions of lines.
func scanAddress(_ bytes: [UInt8], from start: Int, to end: Int) -> Result<UInt64, AddressFault> {
  var start = start
  var end = end
  while start < end, isBlank(bytes[start]) { start &+= 1 }
  while end > start, isBlank(bytes[end &- 1]) { end &-= 1 }
  guard start < end else { return .failure(.empty) }
  if bytes[start] == UInt8(ascii: "-") {
    return .failure(start &+ 1 < end && isDecimal(bytes[start &+ 1]) ? .negative : .notANumber)
  }
  if bytes[start] == UInt8(ascii: "+") {
    return .failure(start &+ 1 < end && isDecimal(bytes[start &+ 1]) ? .signed : .notANumber)
  }

  if end &- start >= 2, bytes[start] == UInt8(ascii: "0"), bytes[start &+ 1] | 0x20 == UInt8(ascii: "x") {
    start &+= 2
    guard start < end else { return .failure(.noDigits) }
    var value: UInt64 = 0
    var overflow = false
    for index in stride(from: start, to: end, by: 1) {
      guard let digit = hexadecimalDigit(bytes[index]) else { return .failure(.notANumber) }
      overflow = overflow || value >> 60 != 0
      value = value << 4 | UInt64(truncatingIfNeeded: digit)
    }
    return overflow ? .failure(.tooLarge) : .success(value)
  }

  var value: UInt64 = 0
  var overflow = false
  for index in stride(from: start, to: end, by: 1) {
    guard isDecimal(bytes[index]) else {
      let isHexadecimal = bytes[..<end][start...].allSatisfy { hexadecimalDigit($0) != nil }
      return .failure(isHexadecimal ? .hexadecimalWithoutPrefix : .notANumber)
    }
    let (product, productOverflow) = value.multipliedReportingOverflow(by: 10)
    let (sum, sumOverflow) = product.addingReportingOverflow(UInt64(bytes[index] & 15))
    overflow = overflow || productOverflow || sumOverflow
    value = sum
  }
  return overflow ? .failure(.tooLarge) : .success(value)
}

private func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D || byte == 0x0A }

private func isDecimal(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

func hexadecimalDigit(_ byte: UInt8) -> UInt8? {
  if isDecimal(byte) { return byte & 15 }
  let letter = (byte | 0x20) &- UInt8(ascii: "a")
  return letter < 6 ? letter &+ 10 : nil
}
