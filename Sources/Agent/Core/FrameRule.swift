// FrameRule: how to get from a frame to its caller, in 32 bits, and the cache that knows it for each return address.
//
//   bit 31         25 24           5    4        3     2    0
//       +------------+--------------+-------+---------+------+
//       |  saved:7   |  offset:20   | saves | on rbp  | kind |
//       +------------+--------------+-------+---------+------+
//
// - FRAME: the canonical frame address (CFA) is rsp or rbp + 8 × offset; the return address is below it; if `saves`,
//   the caller's rbp is at CFA - 8 × saved, else it is unchanged. So frames of up to 8 MiB fit, as large as stacks commonly
//   are; registers are saved right below the return address.
// - REALIGNED: the CFA is what is stored at rbp - 8 × offset, the caller's rbp at rbp.
// - The rest have no fields.
//
// The cache has one word for each of its lines, (pc >> 15, rule), which line and word together name the pc exactly. So
// it needs no lock: a word is right or of another pc, and whoever loses a race decodes once more.

import AgentMachine
import SharedLayout

struct FrameRule: Equatable {
  enum Kind: UInt32 {
    case none = 0
    case frame = 1
    case realigned = 2
    case signalFrame = 3
    case outermost = 4
    case withoutInformation = 5
    case unsupported = 6
  }

  let bits: UInt32

  @inline(__always) init(bits: UInt32) { self.bits = bits }
  private init(_ kind: Kind) { bits = kind.rawValue }

  static var none: FrameRule { FrameRule(bits: 0) }
  static var signalFrame: FrameRule { FrameRule(.signalFrame) }
  static var outermost: FrameRule { FrameRule(.outermost) }
  static var withoutInformation: FrameRule { FrameRule(.withoutInformation) }
  static var unsupported: FrameRule { FrameRule(.unsupported) }

  /// `offset` and `savedAt` in bytes, relative to the register and to the CFA.
  init(isBasedOnFramePointer: Bool, offset: Int64, savedAt: Int64?) {
    let saved = savedAt.map { -$0 } ?? 0
    guard offset >= 8, offset & 7 == 0, offset >> 3 < 1 << 20, saved >= 0, saved & 7 == 0, saved >> 3 < 1 << 7,
      savedAt == nil || saved > 0
    else {
      self = .unsupported
      return
    }
    bits =
      Kind.frame.rawValue | (isBasedOnFramePointer ? 8 : 0) | (savedAt == nil ? 0 : 16)
      | UInt32(offset >> 3) << 5 | UInt32(saved >> 3) << 25
  }

  /// `place` in bytes, relative to rbp.
  init(realignedAt place: Int64) {
    guard place <= 0, place & 7 == 0, -place >> 3 < 1 << 20 else {
      self = .unsupported
      return
    }
    bits = Kind.realigned.rawValue | UInt32(-place >> 3) << 5
  }

  @inline(__always) var kind: UInt32 { bits & 7 }
  @inline(__always) var isFrame: Bool { bits & 7 == Kind.frame.rawValue }
  @inline(__always) var isBasedOnFramePointer: Bool { bits & 8 != 0 }
  @inline(__always) var savesFramePointer: Bool { bits & 16 != 0 }
  /// Bytes.
  @inline(__always) var offset: UInt64 { UInt64(bits >> 5 & 0xFFFFF) << 3 }
  /// Bytes below the CFA.
  @inline(__always) var saved: UInt64 { UInt64(bits >> 25) << 3 }
}

// MARK: the cache

enum FrameRules {
  private static let lineBits: UInt64 = 15
  private static let lineCount = 1 << 15
  static var size: UInt64 { UInt64(lineCount) * 8 }

  /// The rule for the call that returns to `pc`.
  @inline(__always)
  static func rule(_ cache: UnsafeMutablePointer<UInt64>, _ pc: UInt64) -> FrameRule {
    let line = cache + Int((pc ^ pc >> lineBits) & UInt64(lineCount - 1))
    let word = allocs_load_relaxed_u64(line)
    if word >> 32 == pc >> lineBits, word & 7 != 0 { return FrameRule(bits: UInt32(truncatingIfNeeded: word)) }
    return decode(line, pc)
  }

  @inline(never)
  private static func decode(_ line: UnsafeMutablePointer<UInt64>, _ pc: UInt64) -> FrameRule {
    guard pc >> 47 == 0 else { return .unsupported }
    let rule = CallFrameInformation.rule(for: pc, isExact: false)
    allocs_store_relaxed_u64(line, (pc >> lineBits) << 32 | UInt64(rule.bits))
    return rule
  }

  /// Forgets all: a module came or went.
  static func flush(_ cache: UnsafeMutablePointer<UInt64>) {
    for line in 0..<lineCount { allocs_store_relaxed_u64(cache + line, 0) }
  }
}
