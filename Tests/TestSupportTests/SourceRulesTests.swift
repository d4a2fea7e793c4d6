// SPDX-License-Identifier: Apache-2.0
// Rules that every test keeps, checked in the sources of all of them: a test that breaks one is found by reading, not
// by a run that hangs or that can't be had again.

import Foundation
import TestSupport
import Testing

/// The sources below Tests, but for the programs that tests run.
private let sources: [(path: String, lines: [String])] = {
  let root = "\(Installation.packageDirectory)/Tests"
  let names = FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []
  return names.filter { $0.hasSuffix(".swift") && !$0.contains("/Programs/") }.sorted().map { name in
    let text = (try? String(contentsOfFile: "\(root)/\(name)", encoding: .utf8)) ?? ""
    return (name, text.components(separatedBy: "\n"))
  }
}()

@Suite("Rules of the tests", .bounded)
struct SourceRulesTests {
  /// Where lines other than comments match: "FILE:LINE: text".
  private func places(_ pattern: some RegexComponent, except: Set<String> = []) -> [String] {
    sources.filter { !except.contains($0.path) }.flatMap { path, lines in
      lines.enumerated().filter { _, line in
        !line.drop(while: \.isWhitespace).hasPrefix("//") && line.contains(pattern)
      }.map { "\(path):\($0.offset + 1): \($0.element)" }
    }
  }

  @Test("every suite ends in time: it has the trait .bounded, and no test stands outside of a suite")
  func bounded() {
    var suites = 0
    var faults: [String] = []
    for (path, lines) in sources {
      var attributes = ""
      var isBounded = false
      for (number, line) in lines.enumerated() {
        // A declaration that begins its line is outside of all others; attributes may take several lines.
        if line.hasPrefix("@") { attributes = line } else if line.hasPrefix("  ") { attributes += line }
        if line.contains(#/^(@\S.* )?(private |final |package )*(struct|class|enum|actor) /#) {
          isBounded = attributes.contains(".bounded") || line.contains(".bounded")
          if isBounded { suites += 1 }
          attributes = ""
        } else if line.hasPrefix("extension ") {
          // Its suites are within the suite EndToEnd, and have what that has.
          isBounded = line == "extension EndToEnd {"
        } else if line.hasPrefix("}") {
          isBounded = false
        }
        if line.contains(#/^\s*@Test\b/#), !isBounded || line.hasPrefix("@Test") {
          faults.append("\(path):\(number + 1): its suite has no .bounded")
        }
      }
    }
    #expect(faults == [])
    #expect(suites > 60, "\(suites) suites were found")
    #expect(sources.contains { $0.lines.contains { $0.contains(#"@Suite("end to end", .serialized, .bounded)"#) } })
  }

  @Test("no test sleeps: it waits for something, by wait(for:), or says why it lets time pass, by letRun")
  func sleeping() {
    // Unicode's boundaries of words, which \b is, are none at a full stop between letters: it misses Thread.sleep(.
    let pattern = #/(?:^|[^A-Za-z_])(?:usleep|sleep|nanosleep|clock_nanosleep)\(/#
    for call in ["sleep(1)", "  Thread.sleep(forTimeInterval: 1)", "try await Task.sleep(for: x)", "x;usleep(1)"] {
      #expect(call.contains(pattern), "\(call)")
    }
    let waiting: Set = ["TestSupport/Waiting.swift", "TestSupportTests/SourceRulesTests.swift"]
    #expect(places(pattern, except: waiting) == [])
    // Above each use is the reason.
    for (path, lines) in sources where !waiting.contains(path) && !path.hasPrefix("TestSupportTests/") {
      for (number, line) in lines.enumerated() where line.contains("letRun(") {
        let above = lines[max(number - 1, 0)].drop(while: \.isWhitespace)
        #expect(above.hasPrefix("//"), "\(path):\(number + 1): no comment says why time passes here")
      }
    }
  }

  @Test("what a test opens stays its own: a program that another test starts meanwhile would hold it open")
  func closedOnExec() {
    let opening = #/(?:^|[^A-Za-z_.])(?:pipe|socketpair|socket|open|openat|accept4)\((?!\)|.*CLOEXEC)/#
    for call in ["pipe(&ends)", "let file = open(path, O_RDONLY)", "= socket(AF_INET, kind, 0)"] {
      #expect(call.contains(opening), "\(call)")
    }
    // The first has its flags in the line before; the second is a program.
    let places = places(opening, except: ["TestSupport/ChildProcess.swift", "ConfinementTests/Probe/main.swift"])
    // Functions of such names, and Python's.
    #expect(places.filter { !$0.contains(#/func |sys\.argv/#) && !$0.hasPrefix("TestSupportTests/") } == [])
  }

  @Test("what is random comes from the run's seed, or from one that the test names")
  func seeded() {
    #expect(places(#/SystemRandomNumberGenerator|\barc4random|\bdrand48/#, except: Self.thisFile) == [])
    let drawing = #/\.(random|shuffled|randomElement)\((?!.*using:)/#
    // Some calls have their arguments in the next line.
    let unseeded = places(drawing, except: Self.thisFile.union(["TestSupport/RandomNumbers.swift"]))
      .filter { !$0.hasSuffix("(") }
    #expect(unseeded == [])
  }

  private static let thisFile: Set = ["TestSupportTests/SourceRulesTests.swift"]
}
