// FrameRule: how to get from a frame to its caller, in 32 bits, and the cache that knows it for each return address.
//
//   bit 31                            5    4        3     2    0
//       +------------+--------------+-------+---------+------+
//       |  saved     |  offset      | saves | on fp   | kind |
//       +------------+--------------+-------+---------+------+
//
// - FRAME: the canonical frame address (CFA) is stack or frame pointer + offset; `saved` below it tells where the
//   return address lies and, if `saves`, the caller's frame pointer, else it is unchanged. How wide the two fields are,
//   and what `saved` means, is the machine's affair (Machine*.swift).
// - REALIGNED: the CFA is what is stored at frame pointer - offset, the caller's frame pointer at the frame pointer.
// - UNSTORED: the CFA is stack pointer + offset, the return address still in a register.
// - The rest have no fields.
//
// The cache has one word for each of its lines, (upper bits of pc, rule), which line and word together name the pc
// exactly. So it needs no lock: a word is right or of another pc, and whoever loses a race decodes once more.

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

  /// In bytes, relative to the register, and of `saved` below the CFA.
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

  /// `place` in bytes, relative to the frame pointer.
  init(realignedAt place: Int64) { self.init(.realigned, offset: -place) }
  /// In bytes, relative to the stack pointer.
  init(unstoredAt offset: Int64) { self.init(.unstored, offset: offset) }

  private init(_ kind: Kind, offset: Int64) {
    let field = offset >> Machine.offsetShift
    guard offset >= 0, field << Machine.offsetShift == offset, field < 1 << Machine.offsetBits else {
      self = .unsupported
      return
    }
    bits = kind.rawValue | UInt32(field) << 5
  }

  @inline(__always) var kind: UInt32 { bits & 7 }
  @inline(__always) var isFrame: Bool { bits & 7 == Kind.frame.rawValue }
  @inline(__always) var isBasedOnFramePointer: Bool { bits & 8 != 0 }
  /// Whether the way out depends on what the frame pointer register holds.
  @inline(__always) var needsFramePointer: Bool { bits & 15 != Kind.frame.rawValue }
  @inline(__always) var savesFramePointer: Bool { bits & 16 != 0 }
  /// Bytes.
  @inline(__always) var offset: UInt64 { UInt64(bits >> 5 & (1 << Machine.offsetBits - 1)) << Machine.offsetShift }
  /// Bytes below the CFA.
  @inline(__always) var saved: UInt64 { UInt64(bits >> (5 + Machine.offsetBits)) << 3 }
}

// MARK: the cache

enum FrameRules {
  // So many that the rest of an address fits half a word.
  private static let lineBits = Machine.addressBits - 32
  private static let lineCount = 1 << lineBits
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
    guard pc >> Machine.addressBits == 0 else { return .unsupported }
    let rule = CallFrameInformation.rule(for: pc, isExact: false)
    allocs_store_relaxed_u64(line, (pc >> lineBits) << 32 | UInt64(rule.bits))
    return rule
  }

  /// Forgets all: a module came or went.
  static func flush(_ cache: UnsafeMutablePointer<UInt64>) {
    for line in 0..<lineCount { allocs_store_relaxed_u64(cache + line, 0) }
  }
}
