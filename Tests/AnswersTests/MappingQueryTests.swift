// SPDX-License-Identifier: Apache-2.0
// Mappings that the kernel is asked for one by one, held against the text of all.

import Glibc
import IndexReader
import TestSupport
import Testing

@testable import Answers
@testable import SegmentFiles

@Suite("Mappings, asked one by one", .bounded)
struct MappingQueryTests {
  private static func query() throws -> MappingQuery {
    let maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)
    try #require(maps >= 0)
    return MappingQuery(taking: maps)
  }

  /// Whether this kernel knows the question: since Linux 6.11.
  static func isKnown() throws -> Bool {
    var here = 0
    let address = withUnsafeMutablePointer(to: &here) { UInt64(UInt(bitPattern: $0)) }
    let query = try query()
    return (try? query.mapping(at: address)) ?? nil != nil
  }

  @Test("each is what its line of the text says, whatever its name")
  func agreement() throws {
    guard try Self.isKnown() else { return }
    let directory = TemporaryDirectory()
    var mappings: [UnsafeMutableRawPointer] = []
    var paths: [String] = []
    defer {
      for mapping in mappings { munmap(mapping, 4096) }
      for path in paths { unlink(path) }
    }
    // Names of the worst kind; the first file is removed while it is mapped, the second looks as if it had been.
    for name in ["gone", "here (deleted)", "two\nlines", "back\\slash", "caf\u{e9} \u{1b}[31m", "[heap]"] {
      let path = "\(directory.path)/\(name)"
      let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
      try #require(file >= 0 && ftruncate(file, 8192) == 0)
      let protection = name == "gone" ? PROT_READ | PROT_EXEC : PROT_READ | PROT_WRITE
      let mapping = mmap(nil, 4096, protection, name == "gone" ? MAP_PRIVATE : MAP_SHARED, file, 4096)
      close(file)
      if name == "gone" { unlink(path) } else { paths.append(path) }
      mappings.append(try #require(mapping == MAP_FAILED ? nil : mapping))
    }
    let shared = mmap(nil, 4096, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
    mappings.append(try #require(shared == MAP_FAILED ? nil : shared))

    let query = try Self.query()
    func lines() throws -> ProcessMaps { ProcessMaps(text: try #require(readFile("/proc/self/maps"))) }
    var (compared, differing) = (0, [Mapping]())
    // Other tests of this process map meanwhile: a mapping whose line is the same before and after may have been
    // another one in between. It is not so in round after round.
    for round in 0..<10 where round == 0 || !differing.isEmpty {
      let before = try lines()
      var asked: [UInt64: Mapping] = [:]
      for mapping in before.mappings {
        for address in [mapping.start, mapping.end - 1] {
          guard let facts = try query.mapping(at: address) else { continue }
          asked[address] = Mapping(facts)
        }
      }
      let after = Set(try lines().mappings)
      let same = before.mappings.filter { after.contains($0) && $0.path != "[vsyscall]" }
      compared = same.count
      differing = same.filter { asked[$0.start] != $0 || asked[$0.end - 1] != $0 }
      for mapping in mappings {
        let start = UInt64(UInt(bitPattern: mapping))
        #expect(asked[start] != nil && asked[start] == before.mapping(containing: start))
      }
    }
    #expect(differing == [])
    #expect(compared >= mappings.count)
    // The text has the same four characters for a newline and for a name that holds them; the answer tells them apart.
    let literal = "\(directory.path)/a\\012b"
    paths.append(literal)
    let file = open(literal, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    try #require(file >= 0 && ftruncate(file, 4096) == 0)
    let mapping = mmap(nil, 4096, PROT_READ, MAP_PRIVATE, file, 0)
    close(file)
    mappings.append(try #require(mapping == MAP_FAILED ? nil : mapping))
    let facts = try #require(try query.mapping(at: UInt64(UInt(bitPattern: mapping))))
    #expect(Mapping(facts).path?.unescaped == literal)
    for address: UInt64 in [0, 1 << 47, .max] { #expect(try query.mapping(at: address) == nil) }
  }

  @Test("a table of indices finds what was put in, and nothing else, whatever the numbers")
  func indices() {
    var table = IndexTable()
    // Ids in order, the least and the greatest, and numbers that share their lower or upper bits.
    let numbers = [0, .max, .max - 1] + Array(7..<5000) + (1..<2000).map { UInt32($0) << 20 | 5 }
    for (index, number) in numbers.enumerated() {
      #expect(table.index(of: number) == nil)
      table.add(index, of: number)
    }
    for (index, number) in numbers.enumerated() { #expect(table.index(of: number) == index) }
    for number in UInt32(5000)..<6000 { #expect(table.index(of: number) == nil) }
  }
}
