// SPDX-License-Identifier: Apache-2.0
// FrameRule: how to get from a frame to its caller's frame, in 32 bits; and the cache of the rules
// of return addresses.
//
//   bit 31                            5    4        3     2    0
//       +------------+--------------+-------+---------+------+
//       |  saved     |  offset      | saves | on fp   | kind |
//       +------------+--------------+-------+---------+------+
//
// - A rule of kind `frame`: the canonical frame address (CFA), which is the caller's stack pointer,
//   is the stack pointer or (`on fp`) the frame pointer, plus `offset`. The field `saved` tells how
//   far below the CFA the return address and, if `saves` is set, the caller's frame pointer are
//   stored; without `saves` the caller has the frame's own frame pointer. The machine decides how
//   wide the two fields are and which of the two words `saved` means (Machine*.swift).
// - Kind `realigned`: the CFA is stored at frame pointer - offset, the caller's frame pointer at
//   the frame pointer.
// - Kind `unstored`: the CFA is the stack pointer + offset, and the return address is still in a
//   register.
// - The other kinds have no fields.
//
// The cache has one word in each of its lines: (upper bits of the pc, rule). The number of the line
// and the word together determine the pc exactly. So the cache needs no lock: a word is the right
// one or of another pc, and a thread that loses a race decodes the rule once more.

import AgentMachine
import SharedLayout

struct FrameRule: Equatable {
  enum Kind: UInt32 {
    /// No rule: an empty line of the cache.
    case none = 0
    case frame = 1
    /// A function that aligns its stack anew and keeps its CFA in memory.
    case realigned = 2
    /// The kernel's frame around a signal handler.
    case signalFrame = 3
    /// The frame has no caller.
    case outermost = 4
    /// The code has no call frame information.
    case withoutInformation = 5
    /// The code has call frame information of a form that is not followed.
    case unsupported = 6
    case unstored = 7
  }

  let bits: UInt32

  @inline(__always) init(bits: UInt32) { self.bits = bits }
  private init(_ kind: Kind) { bits = kind.rawValue }

  static var none: FrameRule { FrameRule(bits: 0) }
  static var signalFrame: FrameRule { FrameRule(.signalFrame) }
  static var outermost: FrameRule { FrameRule(.outermost) }
  static var withoutInformation: FrameRule { FrameRule(.withoutInformation) }
  static var unsupported: FrameRule { FrameRule(.unsupported) }

  /// A rule of kind `frame`. `offset` in bytes from the register, `saved` in bytes below the CFA.
  init(isBasedOnFramePointer: Bool, offset: Int64, savesFramePointer: Bool, saved: Int64) {
    let offsetField = offset >> Machine.offsetShift
    let savedField = saved >> 3
    guard offset >= 8, offsetField << Machine.offsetShift == offset, offsetField < 1 << Machine.offsetBits,
      saved >= 0, savedField << 3 == saved, savedField < 1 << Machine.savedBits
    else {
      self = .unsupported
      return
    }
    bits =
      Kind.frame.rawValue | (isBasedOnFramePointer ? 8 : 0) | (savesFramePointer ? 16 : 0)
      | UInt32(offsetField) << 5 | UInt32(savedField) << (5 + Machine.offsetBits)
  }

  /// A rule of kind `realigned`. `offset`, in bytes from the frame pointer, is where the CFA is
  /// stored.
  init(realignedAt offset: Int64) { self.init(.realigned, offset: -offset) }
  /// A rule of kind `unstored`. `offset` in bytes from the stack pointer.
  init(unstoredAt offset: Int64) { self.init(.unstored, offset: offset) }

  private init(_ kind: Kind, offset: Int64) {
    let field = offset >> Machine.offsetShift
    guard offset >= 0, field << Machine.offsetShift == offset, field < 1 << Machine.offsetBits else {
      self = .unsupported
      return
    }
    bits = kind.rawValue | UInt32(field) << 5
  }

  /// Every value of the three bits is a kind.
  @inline(__always) var kind: Kind { Kind(rawValue: bits & 7).unsafelyUnwrapped }
  @inline(__always) var isFrame: Bool { bits & 7 == Kind.frame.rawValue }
  @inline(__always) var isBasedOnFramePointer: Bool { bits & 8 != 0 }
  /// Whether the way to the caller depends on the value of the frame pointer register. Without a
  /// way to the caller there is nothing to depend on it.
  @inline(__always) var needsFramePointer: Bool {
    bits & 15 != Kind.frame.rawValue && bits & 15 != Kind.outermost.rawValue
  }
  @inline(__always) var savesFramePointer: Bool { bits & 16 != 0 }
  /// Bytes.
  @inline(__always) var offset: UInt64 { UInt64(bits >> 5 & (1 << Machine.offsetBits - 1)) << Machine.offsetShift }
  /// Bytes below the CFA.
  @inline(__always) var saved: UInt64 { UInt64(bits >> (5 + Machine.offsetBits)) << 3 }
}

// MARK: the cache

enum FrameRules {
  typealias Cache = UnsafeMutablePointer<UInt64>

  // With so many lines, the bits of an address that the line doesn't tell fit into half a word.
  private static let lineBits = Machine.addressBits - 32
  private static let lineCount = 1 << lineBits
  /// Bytes of a cache.
  static var size: UInt64 { UInt64(lineCount) * 8 }

  /// The rule for the frame with `pc`, which may have the bit `Registers.interrupted`. Without a
  /// cache, or where a signal interrupted the frame, the rule is decoded anew.
  @inline(__always)
  static func rule(_ pc: UInt64, _ cache: Cache?) -> FrameRule {
    guard pc & Registers.interrupted == 0, let cache else {
      return CallFrameInformation.rule(
        for: pc & ~Registers.interrupted, isExact: pc & Registers.interrupted != 0)
    }
    return cached(pc, cache)
  }

  /// The rule for the call that returns to `pc`.
  @inline(__always)
  private static func cached(_ pc: UInt64, _ cache: Cache) -> FrameRule {
    let line = cache + Int((pc ^ pc >> lineBits) & UInt64(lineCount - 1))
    let word = allocs_load_relaxed_u64(line)
    if word >> 32 == pc >> lineBits, word & 7 != 0 { return FrameRule(bits: UInt32(truncatingIfNeeded: word)) }
    return decode(line, pc)
  }

  @inline(never)
  private static func decode(_ line: Cache, _ pc: UInt64) -> FrameRule {
    guard pc >> Machine.addressBits == 0 else { return .unsupported }
    let rule = CallFrameInformation.rule(for: pc, isExact: false)
    allocs_store_relaxed_u64(line, (pc >> lineBits) << 32 | UInt64(rule.bits))
    return rule
  }

  /// Forgets all rules: a module came or went.
  static func flush(_ cache: Cache) {
    for line in 0..<lineCount { allocs_store_relaxed_u64(cache + line, 0) }
  }
}
