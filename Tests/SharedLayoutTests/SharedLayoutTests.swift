// Each encoded field of the layout against its inverse, at every boundary.

import Foundation
import SharedLayout
import TestSupport
import Testing

private let sizes: [UInt64] = [
  0, 1, 31, 32, 62, 63, 64, 65, 127, 128, 0xFF_FFFF, 0x100_0000, 0x100_0001, 0x7FFF_FFFF_FFFF,
]
private let contexts: [UInt32] = [0, 1, 2, 0x7FFFFF, 0x800000, ALLOCS_CONTEXT_LIMIT - 1]
private let times: [UInt32] = [0, 1, 0x1FF, 0x200, 0x3FFF_FFFF, 0x4000_0000, ALLOCS_TICK_MASK]
private let smallLimit = UInt64(ALLOCS_SMALL_SIZE_LIMIT)

@Suite("Slots", .bounded)
struct SlotTests {
  /// Expects what heads of both kinds have: what they were made of.
  private func expectHead(
    _ head: UInt64, _ kind: allocs_slot_kind, _ granule: UInt32, _ size: UInt64, _ context: UInt32, _ ticks: UInt32
  ) {
    #expect(allocs_slot_kind(head) == kind.rawValue)
    #expect(allocs_slot_kind_of_size(size) == kind.rawValue)
    #expect(allocs_slot_is_head_of(head, granule) && !allocs_slot_is_head_of(head, 1 - granule))
    #expect(allocs_slot_is_head(head))
    #expect(allocs_slot_granule(head) == granule)
    #expect(allocs_slot_context(head) == context)
    #expect(allocs_slot_ticks(head) == ticks)
  }

  @Test("a small head gives back granule, size, context and time", arguments: sizes.filter { $0 < smallLimit }, [0, 1])
  func small(size: UInt64, granule: UInt32) {
    for context in contexts {
      for ticks in times {
        let head = allocs_slot_small(granule, size, context, ticks)
        expectHead(head, ALLOCS_SLOT_SMALL, granule, size, context, ticks)
        #expect(allocs_slot_small_size(head) == size)
      }
    }
  }

  @Test(
    "a large head and its tail give back everything, and match", arguments: sizes.filter { $0 >= smallLimit }, [0, 1])
  func large(size: UInt64, granule: UInt32) {
    for context in contexts {
      for ticks in times {
        let head = allocs_slot_large(granule, size, context, ticks)
        expectHead(head, ALLOCS_SLOT_LARGE, granule, size, context, ticks)
        for alignment: UInt32 in [0, 4, 5, 12, 21, 46, ALLOCS_ALIGNMENT_LIMIT - 1] {
          let tail = allocs_slot_tail(size, alignment, ticks)
          #expect(allocs_slot_kind(tail) == ALLOCS_SLOT_TAIL.rawValue)
          #expect(!allocs_slot_is_head(tail))
          #expect(!allocs_slot_is_head_of(tail, 0) && !allocs_slot_is_head_of(tail, 1))
          #expect(allocs_slot_tail_size(tail) == size)
          #expect(allocs_slot_tail_alignment(tail) == alignment)
          #expect(allocs_slot_tail_matches(head, tail))
        }
      }
    }
  }

  @Test("a head does not match the tail of another time or of another size")
  func mismatch() {
    let head = allocs_slot_large(0, 100, 7, 1000)
    #expect(!allocs_slot_tail_matches(head, allocs_slot_tail(100, 0, 1001)))
    #expect(!allocs_slot_tail_matches(head, allocs_slot_tail(101, 0, 1000)))
    #expect(!allocs_slot_tail_matches(head, 0))
    #expect(!allocs_slot_tail_matches(head, head))
    #expect(!allocs_slot_tail_matches(head, allocs_slot_small(0, 100 & 63, 7, 1000)))
  }

  @Test("an empty slot and a tail are no heads; both kinds of head are")
  func kinds() {
    #expect(!allocs_slot_is_head(0))
    #expect(!allocs_slot_is_head(UInt64.max))
    #expect(allocs_slot_is_head(1))
    #expect(allocs_slot_is_head(2))
    #expect(!allocs_slot_is_head(3))
    #expect(!allocs_slot_is_head(4))
  }

  @Test("no field of a head reaches into another: all ones in one leave the rest zero")
  func isolation() {
    let fields: [(UInt64, UInt64)] = [
      (allocs_slot_head(3, 0, 0, 0, 0), 0x3),
      (allocs_slot_head(0, 1, 0, 0, 0), 0x4),
      (allocs_slot_head(0, 0, 63, 0, 0), 0x1F8),
      (allocs_slot_head(0, 0, 0, ALLOCS_CONTEXT_LIMIT - 1, 0), 0x1_FFFF_FE00),
      (allocs_slot_head(0, 0, 0, 0, ALLOCS_TICK_MASK), 0xFFFF_FFFE_0000_0000),
    ]
    for (word, mask) in fields { #expect(word == mask) }
    #expect(fields.reduce(0) { $0 ^ $1.0 } == UInt64.max)
    let largest: UInt64 = (1 << UInt64(ALLOCS_SIZE_BITS)) - 1
    #expect(allocs_slot_tail(largest, 0, 0) == 0x0001_FFFF_FFFF_FFFF)
    #expect(allocs_slot_tail(0, 63, 0) == 0x007E_0000_0000_0003)
    #expect(allocs_slot_tail(0, 0, ALLOCS_TICK_MASK) == 0xFF80_0000_0000_0003)
  }
}

@Suite("Addresses", .bounded)
struct AddressTests {
  static let addresses: [UInt64] = [
    0, 16, 32, 48, 0x3FF_FFE0, 0x3FF_FFF0, 0x400_0000, 0x400_0010, 0x7F12_3456_7890, 0x7FFF_FFFF_FFF0,
  ]

  @Test("region, slot and granule give back the address", arguments: addresses)
  func inverse(address: UInt64) {
    let region = allocs_region_of_address(address)
    let index = allocs_slot_index(address)
    #expect(region < 1 << 21)
    #expect(index < 1 << 21)
    #expect(allocs_address_of_slot(region, index, allocs_granule_of_address(address)) == address)
    #expect(allocs_address_of_region(region) <= address)
    #expect(address - allocs_address_of_region(region) < 1 << 26)
    #expect(allocs_summary_index(address) == index / 64)
  }

  @Test("an address that is not at a multiple of 16 lies in the slot of its block")
  func interior() {
    #expect(allocs_slot_index(0x1000_001F) == allocs_slot_index(0x1000_0000))
    #expect(allocs_slot_index(0x1000_0020) == allocs_slot_index(0x1000_0000) + 1)
    #expect(allocs_granule_of_address(0x1000_000F) == 0)
    #expect(allocs_granule_of_address(0x1000_0010) == 1)
  }
}

@Suite("Contexts", .bounded)
struct ContextTests {
  @Test("a context's word gives back its four parts")
  func inverse() {
    for node: UInt32 in [0, 1, 0xFF_FFFF, .max] {
      for thread: UInt32 in [0, 1, 0x7FFF, 0x8000, ALLOCS_THREAD_UNKNOWN] {
        for function in 0..<UInt32(ALLOCS_FUNCTION_COUNT.rawValue) {
          for allocator: UInt32 in [0, 7, 255] {
            let word = allocs_context_word(node, thread, function, allocator)
            #expect(allocs_context_node(word) == node)
            #expect(allocs_context_thread(word) == thread)
            #expect(allocs_context_function(word) == function)
            #expect(allocs_context_allocator(word) == allocator)
          }
        }
      }
    }
  }

  /// The members of an enumeration as its header writes them: "NAME", or "NAME = NUMBER", and a comma.
  private func members(_ enumeration: String, in header: String) throws -> [UInt32: String] {
    let text = try #require(Self.text(ofHeader: header))
    let start = try #require(text.range(of: "enum \(enumeration) {"))
    let end = try #require(text.range(of: "};", range: start.upperBound..<text.endIndex))
    var members: [UInt32: String] = [:]
    var next: UInt32 = 0
    for line in text[start.upperBound..<end.lowerBound].split(separator: "\n") {
      for member in (line.components(separatedBy: "//").first ?? "").split(separator: ",") {
        let words = member.split(whereSeparator: { $0 == " " || $0 == "=" })
        guard let name = words.first else { continue }
        if words.count > 1 { next = try #require(UInt32(words[1])) }
        members[next] = String(name)
        next += 1
      }
    }
    return members
  }

  private static func text(ofHeader name: String) -> String? { source("SharedLayout/include/\(name)") }

  private static func source(_ path: String) -> String? {
    let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    return try? String(contentsOf: package.appending(path: "Sources/\(path)"), encoding: .utf8)
  }

  @Test("the picture of the segment shows the sections in the order in which the agent places them")
  func picture() throws {
    let header = try #require(Self.text(ofHeader: "allocs_segment.h"))
    let picture = header.prefix(upTo: try #require(header.range(of: "#ifndef")).lowerBound)
    // A name takes the first fourteen columns of its row.
    let rows = picture.split(separator: "\n").compactMap { line -> String? in
      let cells = line.split(separator: "|")
      return cells.count >= 2 ? cells[1].prefix(15).trimmingCharacters(in: .whitespaces) : nil
    }
    let whole = try #require(Self.source("Agent/Core/Life/Segment.swift"))
    let start = try #require(whole.range(of: "func layOut(")).lowerBound
    let agent = whole[start...].prefix(upTo: try #require(whole[start...].range(of: "// MARK:")).lowerBound)
    var placed: [String] = []
    for part in agent.components(separatedBy: "ALLOCS_SECTION_").dropFirst() {
      let name = part.prefix { $0.isUppercase || $0 == "_" }.lowercased().replacingOccurrences(of: "_", with: " ")
      let shown = name == "nested" ? "nested arenas" : name
      if !placed.contains(shown) { placed.append(shown) }
    }
    #expect(rows == ["header"] + placed)
  }

  /// That each number of an enumeration has a name of its own, and no other number has one.
  private func check(
    _ enumeration: String, in header: String, count: UInt32, but unnamed: Set<String>, name: (UInt32) -> String
  ) throws {
    var members = try members(enumeration, in: header)
    #expect(members.removeValue(forKey: count)?.hasSuffix("_COUNT") == true)
    members = members.filter { !unnamed.contains($0.value) }
    #expect(members.count > 10)
    for (number, member) in members { #expect(!name(number).isEmpty, "\(member) has no name") }
    for number in 0..<count + 100 where members[number] == nil { #expect(name(number).isEmpty, "\(number)") }
    #expect(Set(members.keys.map(name)).count == members.count)
    #expect(name(.max).isEmpty)
  }

  @Test("each function of the layout has a name of its own, and numbers that are not in use have none")
  func names() throws {
    try check(
      "allocs_function", in: "allocs_context.h", count: UInt32(ALLOCS_FUNCTION_COUNT.rawValue),
      but: ["ALLOCS_FUNCTION_UNKNOWN", "ALLOCS_FUNCTION_NONE"]
    ) { String(cString: allocs_function_name($0)) }
    #expect(String(cString: allocs_function_name(1)) == "malloc")
  }

  @Test("each counter in use has a name of its own, a kind and words; a number without a row has none of them")
  func counters() {
    let count = UInt32(ALLOCS_COUNTER_COUNT.rawValue)
    var names: [String] = []
    for number in 0..<count {
      let facts = allocs_counter_facts(number)
      let (name, noun) = (String(cString: facts.name), String(cString: facts.noun))
      #expect(name.isEmpty == (facts.kind == ALLOCS_COUNTS_NOTHING.rawValue), "\(number)")
      #expect(name.isEmpty == noun.isEmpty, "\(number)")
      #expect(name.isEmpty == String(cString: facts.words).isEmpty, "\(number)")
      if !name.isEmpty { names.append(name) }
    }
    #expect(Set(names).count == names.count)
    #expect(names.first == "no_memory" && names.contains("forks_unfollowed"))
    #expect(String(cString: allocs_counter_name(count)) == "")
    #expect(String(cString: allocs_counter_name(.max)) == "")
  }
}

@Suite("Ticks", .bounded)
struct TickTests {
  @Test("a second is 64 ticks, and 31 bits of them are kept")
  func seconds() {
    #expect(allocs_ticks(0, 0) == 0)
    #expect(allocs_ticks(1, 0) == 64)
    #expect(allocs_ticks(0, 500_000_000) == 31)
    #expect(allocs_ticks(0, 999_999_999) == 63)
    let secondsOfWrap = UInt64(1) << 25
    #expect(allocs_ticks(secondsOfWrap - 1, 999_999_999) == ALLOCS_TICK_MASK)
    #expect(allocs_ticks(secondsOfWrap, 0) == 0)
  }

  @Test("ticks never go back within a second")
  func order() {
    let step: UInt64 = 999_983
    for nanoseconds in stride(from: step, to: 1_000_000_000, by: Int(step)) {
      #expect(allocs_ticks(5, nanoseconds) >= allocs_ticks(5, nanoseconds - step))
    }
  }

  @Test("a tick up to a minute ahead is a moment ago")
  func ahead() {
    #expect(allocs_age_ticks(10, 10) == 0)
    #expect(allocs_age_ticks(10, 74) == 64)
    #expect(allocs_age_ticks(74, 10) == 0)
    #expect(allocs_age_ticks(10, ALLOCS_TICK_MASK / 2) == ALLOCS_TICK_MASK / 2 - 10)
  }

  @Test("differences hold across the wrap")
  func wrap() {
    #expect(allocs_ticks_between(5, 5) == 0)
    #expect(allocs_ticks_between(5, 9) == 4)
    #expect(allocs_ticks_between(ALLOCS_TICK_MASK, 0) == 1)
    #expect(allocs_ticks_between(ALLOCS_TICK_MASK - 1, 2) == 4)
    #expect(allocs_ticks_between(0, ALLOCS_TICK_MASK) == ALLOCS_TICK_MASK)
  }
}

@Suite("Atomics", .bounded)
struct AtomicTests {
  @Test("exchange, fetch and compare-exchange do what they say")
  func operations() {
    var word: UInt64 = 0b0101
    #expect(allocs_fetch_or_u64(&word, 0b0010) == 0b0101)
    #expect(word == 0b0111)
    #expect(allocs_fetch_add_u64(&word, 1) == 0b0111)
    #expect(allocs_compare_exchange_u64(&word, 8, 9))
    #expect(!allocs_compare_exchange_u64(&word, 8, 10))
    #expect(word == 9)
    var half: UInt32 = 3
    #expect(allocs_exchange_u32(&half, 4) == 3)
    #expect(allocs_compare_exchange_u32(&half, 4, 5))
    #expect(!allocs_compare_exchange_u32(&half, 4, 6))
    #expect(half == 5)
  }
}
