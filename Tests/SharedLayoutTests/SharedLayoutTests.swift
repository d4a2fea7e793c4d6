// SPDX-License-Identifier: Apache-2.0
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

/// A file of the package, by its path from the package's folder.
private func text(ofFile path: String) throws -> String {
  let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  return try String(contentsOf: package.appending(path: path), encoding: .utf8)
}

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

  @Test("each function of the layout keeps its number and its name, and other numbers have none")
  func names() {
    let format: [UInt32: String] = [
      1: "malloc", 2: "calloc", 3: "realloc", 4: "reallocarray", 5: "memalign", 6: "posix_memalign",
      7: "aligned_alloc", 8: "valloc", 9: "pvalloc", 10: "operator new", 11: "operator new[]", 12: "mallocx",
      13: "rallocx", 14: "xallocx", 15: "zalloc", 16: "malloc_aligned", 17: "zalloc_aligned", 18: "calloc_aligned",
      19: "realloc_aligned", 20: "expand", 21: "mmap", 22: "mremap", 23: "brk", 24: "sbrk", 32: "free",
      33: "operator delete",
    ]
    let count = UInt32(ALLOCS_FUNCTION_COUNT.rawValue)
    for number in 0..<count + 100 {
      #expect(String(cString: allocs_function_name(number)) == format[number] ?? "", "\(number)")
    }
    #expect(format.keys.max() == count - 1)
    #expect(String(cString: allocs_function_name(.max)) == "")
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

@Suite("Sections", .bounded)
struct SectionTests {
  private let rows = (0..<UInt32(ALLOCS_SECTION_ROWS.rawValue)).map { allocs_section_facts($0) }

  @Test("each section has words, and no other number has any")
  func words() {
    let numbers = Set(rows.map(\.id))
    #expect(numbers.count == rows.count)
    #expect(Set(rows.map { String(cString: allocs_section_words($0.id)) }).count == rows.count)
    for number in 0..<UInt32(ALLOCS_SECTION_SPACE) + 100 {
      #expect(String(cString: allocs_section_words(number)).isEmpty == !numbers.contains(number), "\(number)")
    }
  }

  @Test("what the agent makes room for, a reader accepts, and what a version added may be missing")
  func capacities() {
    for facts in rows {
      let words = String(cString: allocs_section_words(facts.id))
      #expect(facts.capacity > 0 && facts.capacity <= facts.most_accepted, "\(words)")
      #expect(facts.since <= ALLOCS_LAYOUT_VERSION, "\(words)")
      // A reader of the version before takes a segment without the section for what it is.
      if facts.since >= ALLOCS_OLDEST_LAYOUT_VERSION + 1 {
        #expect(facts.presence == ALLOCS_SECTION_OPTIONAL.rawValue, "\(words)")
      }
    }
  }

  #if arch(x86_64)
    @Test("the picture of the segment is the list of sections: order, words, bytes of an entry, entries")
    func picture() throws {
      let header = try text(ofFile: "Sources/SharedLayout/include/allocs_segment.h")
      let picture = header.prefix(upTo: try #require(header.range(of: "#ifndef")).lowerBound)
      // A row is `| words | type | entry, entries and a remark`.
      let shown = picture.split(separator: "\n").compactMap { line -> String? in
        let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
        guard cells.count == 4, cells[1] != "header" else { return nil }
        let columns = cells[3].split(separator: " ")
        return columns.count < 3 ? nil : "\(cells[1]): \(columns[0]) \(columns[1]), \(columns[2])"
      }
      #expect(shown == rows.map { pictureRow($0) })
    }
  #endif

  private func pictureRow(_ facts: allocs_section_facts) -> String {
    let ring = UInt64(ALLOCS_RING_RECORDS_OFFSET) + UInt64(ALLOCS_RING_RECORDS_DEFAULT) * 32
    let size = facts.entry_size == UInt64(ALLOCS_ENTRY_SIZE_VARIES) ? ring : facts.entry_size
    let entry = size < 1 << 20 ? "\(size) B" : "\(size >> 20) MiB"
    var digits = Array(String(facts.capacity))
    for place in stride(from: digits.count - 3, to: 0, by: -3) { digits.insert(",", at: place) }
    return "\(String(cString: allocs_section_words(facts.id))): \(entry), \(String(digits))"
  }
}

@Suite("Layout versions", .bounded)
struct LayoutVersionTests {
  @Test("a reader knows the size of the header of its own version and of the one before, and of no other")
  func sizes() {
    #expect(allocs_header_size(ALLOCS_LAYOUT_VERSION) == UInt32(MemoryLayout<allocs_header>.size))
    #expect(allocs_header_size(ALLOCS_OLDEST_LAYOUT_VERSION) < allocs_header_size(ALLOCS_LAYOUT_VERSION))
    for version in 0...UInt32(100) {
      let isKnown = (ALLOCS_OLDEST_LAYOUT_VERSION...ALLOCS_LAYOUT_VERSION).contains(version)
      #expect((allocs_header_size(version) > 0) == isKnown, "\(version)")
    }
  }

  @Test("docs/layout-versions.md tells of this version")
  func documented() throws {
    let page = try text(ofFile: "docs/layout-versions.md")
    #expect(page.contains("| \(ALLOCS_LAYOUT_VERSION) |"), "the table of versions has no row of this one")
  }
}

@Suite("Settings", .bounded)
struct SettingTests {
  @Test("the README's table has each setting that people may give, and says which of them no file may have")
  func readme() throws {
    let lines = try text(ofFile: "README.md").split(separator: "\n")
    var shown: [String: Substring] = [:]
    for line in lines where line.hasPrefix("| `ALLOCS_") {
      let cells = line.split(separator: "|")
      for word in cells[0].split(whereSeparator: { "`, =".contains($0) }) where word.hasPrefix("ALLOCS_") {
        shown[String(word)] = cells[1]
      }
    }
    var expected: Set<String> = []
    for id in 0..<UInt32(ALLOCS_SETTING_COUNT.rawValue) {
      let setting = try #require(allocs_setting_at(id))
      let name = "ALLOCS_" + String(cString: allocs_setting_name(id))
      guard setting.pointee.scope != ALLOCS_SCOPE_INTERNAL.rawValue else { continue }
      expected.insert(name)
      let isForEnvironment = setting.pointee.scope == ALLOCS_SCOPE_ENVIRONMENT.rawValue
      #expect(shown[name]?.contains("environment alone") == isForEnvironment, "\(name)")
    }
    #expect(Set(shown.keys) == expected)
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
