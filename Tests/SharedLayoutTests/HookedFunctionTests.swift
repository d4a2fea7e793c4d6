// SPDX-License-Identifier: Apache-2.0
// The lists of hooked functions and of C++'s operators against the files that no macro can reach. A row that was
// forgotten in one of them fails here by its name.

import Foundation
import TestSupport
import Testing

@Suite("Hooked functions", .bounded)
struct HookedFunctionTests {
  private static func text(_ path: String) throws -> String {
    let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    return try String(contentsOf: package.appending(path: path), encoding: .utf8)
  }

  /// The rows `X(…, …)` of a list, which is a macro of the header.
  private static func rows(of list: String, in header: String) throws -> [String] {
    let text = try text("Sources/Agent/Machine/include/\(header)")
    let start = try #require(text.range(of: "#define \(list)(X)")).upperBound
    var definition = ""
    for line in text[start...].split(separator: "\n", omittingEmptySubsequences: false) {
      definition += line + "\n"
      if !line.hasSuffix("\\") { break }
    }
    let rows = definition.components(separatedBy: "X(").dropFirst()
    try #require(!rows.isEmpty, "\(list) has no rows")
    return Array(rows)
  }

  /// One of the first columns of the rows.
  private static func column(_ column: Int, of list: String, in header: String) throws -> [String] {
    try rows(of: list, in: header).map { row in
      let cells = row.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
      return try #require(cells.count > column ? cells[column] : nil)
    }
  }

  private static let functions = "allocs_hooked_functions.h"
  /// The functions of the malloc family that are recorded, without old names.
  private static func hooked() throws -> [String] { try column(0, of: "ALLOCS_HOOKED_FUNCTIONS", in: functions) }
  private static func passed() throws -> [String] { try column(0, of: "ALLOCS_PASSED_FUNCTIONS", in: functions) }
  private static func old() throws -> [String] { try column(0, of: "ALLOCS_OLD_NAMES", in: functions) }
  private static func ofLibc() throws -> [String] { try column(0, of: "ALLOCS_LIBC_FUNCTIONS", in: functions) }
  private static func operators() throws -> [String] {
    try column(1, of: "ALLOCS_NEW_OPERATORS", in: "allocs_operators.h")
      + column(1, of: "ALLOCS_DELETE_OPERATORS", in: "allocs_operators.h")
  }

  @Test("no name stands twice")
  func unique() throws {
    let names = try Self.hooked() + Self.passed() + Self.old() + Self.ofLibc() + Self.operators()
    #expect(Set(names).count == names.count)
    #expect(names.contains("malloc") && names.contains("cfree") && names.contains("_ZdaPvmSt11align_val_t"))
  }

  @Test("the version script exports each function and operator, and nothing that has no reason here")
  func exports() throws {
    let script = try Self.text("Sources/Agent/Entry/exports.map")
    let global = try #require(script.range(of: "global:")).upperBound
    let local = try #require(script.range(of: "local:")).lowerBound
    let exported = script[global..<local].split(whereSeparator: { $0 == ";" || $0.isWhitespace }).map(String.init)
    let others = [
      "mmap64",  // mmap by another name
      "allocs_agent",  // an agent in the executable knows the library by it
      "__freadptr",  // runs before any constructor (Definitions.c)
      "allocs_pool_agent_allocated", "allocs_pool_agent_freed", "allocs_pool_agent_reset",  // allocs_pool.h calls these
    ]
    let wanted = try Self.hooked() + Self.passed() + Self.old() + Self.ofLibc() + Self.operators() + others
    #expect(Set(wanted).subtracting(exported).sorted() == [], "not exported")
    #expect(Set(exported).subtracting(wanted).sorted() == [], "exported for no reason")
    #expect(Set(exported).count == exported.count)
  }

  /// The names that are no word of the text.
  private static func missing(_ names: [String], in path: String) throws -> [String] {
    let words = Set(try text(path).matches(of: /\w+/).map { String($0.output) })
    return names.filter { !words.contains($0) }
  }

  @Test("the documentation names each function that the agent exports")
  func documentation() throws {
    let family = try Self.hooked() + Self.passed() + Self.old()
    #expect(try Self.missing(family + Self.ofLibc() + Self.operators(), in: "docs/libc.md") == [])
    #expect(try Self.missing(family, in: "docs/design.md") == [])
    #expect(try Self.missing(family, in: "docs/kit.md") == [])
  }

  @Test("the kit has a fallback for each function that an allocator must define, in the order of their rows")
  func fallbacks() throws {
    let hooked = try Self.hooked()
    let places = try Self.column(1, of: "ALLOCS_HOOKED_FUNCTIONS", in: Self.functions)
    let essential = zip(hooked, places).filter { $0.1 == "ESSENTIAL" }.map(\.0)
    let script = try Self.text("scripts/build-kit")
    let loop = try #require(script.firstMatch(of: /for name in ([a-z ]+); do\n  compile "fallback_/))
    #expect(loop.output.1.split(separator: " ").map(String.init) == essential)
    #expect(Array(hooked.prefix(essential.count)) == essential)
  }

  @Test("the kit completes the terminal with each function that an allocator need not define")
  func completion() throws {
    var optional: [String] = []
    for list in ["ALLOCS_HOOKED_FUNCTIONS", "ALLOCS_PASSED_FUNCTIONS"] {
      let names = try Self.column(0, of: list, in: Self.functions)
      let places = try Self.column(1, of: list, in: Self.functions)
      optional += zip(names, places).filter { $0.1 != "ESSENTIAL" }.map(\.0)
    }
    // An old name goes to the terminal's function of today.
    let source = try Self.text("Sources/Agent/Kit/Activation.c")
    let start = try #require(source.firstRange(of: "void allocs_complete_terminal(void) {")).upperBound
    let completed = source[start...].matches(of: /if \(!terminal->(\w+)\) terminal->(\w+) = \w+;/)
    #expect(completed.allSatisfy { $0.output.1 == $0.output.2 })
    #expect(completed.map { String($0.output.1) }.sorted() == optional.sorted())
  }

  @Test("a test program calls each function of the malloc family")
  func called() throws {
    let family = try Self.hooked() + Self.passed() + Self.old()
    #expect(try Self.missing(family, in: "Tests/EndToEndTests/Programs/battery.c") == [])
  }

  @Test("functions that allocate are wrappers: the call site is their caller's")
  func wrappers() throws {
    let rows = try Self.rows(of: "ALLOCS_HOOKED_FUNCTIONS", in: Self.functions)
    let freeing = zip(try Self.hooked(), rows).filter { $0.1.contains("FREES, FREE") }.map(\.0)
    #expect(freeing == ["free", "free_sized", "free_aligned_sized"])
    let allocating = try Self.hooked().filter { !freeing.contains($0) }
    #expect(allocating.count >= 9)
    #expect(try Self.missing(allocating, in: "Sources/Provenance/Wrappers.txt") == [])
  }
}
