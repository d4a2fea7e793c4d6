// SPDX-License-Identifier: Apache-2.0
// Settings reach the agent however they are written, and what is wrong is named: from the environment, the
// configuration and the command line, and by the agent itself where nobody checked before.

import Foundation
import IndexReader
import SharedLayout
import TestSupport
import Testing

extension EndToEnd {
  @Suite("settings")
  struct Settings {
    private static let spellings: [(text: String, value: String)] = [
      ("1", "1"), ("true", "1"), ("True", "1"), ("TRUE", "1"), ("yes", "1"), ("Yes", "1"), ("YES", "1"), ("on", "1"),
      ("On", "1"), ("oN", "1"), ("0", "0"), ("false", "0"), ("False", "0"), ("FALSE", "0"), ("no", "0"), ("NO", "0"),
      ("off", "0"), ("Off", "0"),
    ]

    private func run(
      _ environment: [String: String], options: [String] = [], _ command: [String] = ["env"]
    ) throws -> Outcome {
      let directory = try TestDirectory()
      return try ChildProcess.run(
        [Installation.path(of: "allocsctl"), "run"] + options + ["--"] + command,
        environment: ["ALLOCS_DIR": directory.path].merging(environment) { $1 })
    }

    private func configured(_ text: String, _ environment: [String: String] = [:]) throws -> Outcome {
      let directory = try TestDirectory()
      return try run(environment, options: ["--config", directory.write(text + "\n", to: "allocs.toml")])
    }

    private func expect(
      _ outcome: Outcome, refuses words: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) {
      #expect(outcome.ending == .exit(64) && outcome.output == "", "\(outcome)", sourceLocation: sourceLocation)
      #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)", sourceLocation: sourceLocation)
      for word in words + [" — "] {
        #expect(outcome.errors.contains(word), "\(word): \(outcome.errors)", sourceLocation: sourceLocation)
      }
    }

    private func lines(_ outcome: Outcome) -> Set<Substring> {
      outcome.ending == .exit(0) ? Set(outcome.output.split(separator: "\n")) : []
    }

    @Test("true and false have their usual spellings, in any case, wherever they are set")
    func spellings() throws {
      for (text, value) in Self.spellings {
        let variables = ["ALLOCS_EVENTS", "ALLOCS_FOLLOW", "ALLOCS_FREE_STACKS", "ALLOCS_VERBOSE"]
        let outcome = try run(Dictionary(uniqueKeysWithValues: variables.map { ($0, text) }))
        for name in variables { #expect(lines(outcome).contains("\(name)=\(value)"), "\(text): \(outcome)") }
        let file = try configured(
          "events = '\(text)'\nfollow = \"\(text)\"\nfree_stacks = '\(text)'\nverbose = '\(text)'")
        for name in variables { #expect(lines(file).contains("\(name)=\(value)"), "\(text): \(file)") }
      }
      let plain = try configured("events = true\nfollow = false\nfree_stacks = 1\nverbose = 0")
      #expect(
        lines(plain).isSuperset(of: ["ALLOCS_EVENTS=1", "ALLOCS_FOLLOW=0", "ALLOCS_FREE_STACKS=1", "ALLOCS_VERBOSE=0"]))
    }

    @Test("a flag does what it says, also where the agent is preloaded by hand")
    func flags() throws {
      for (text, value) in Self.spellings {
        let directory = try TestDirectory()
        let outcome = try ChildProcess.run(
          ["true"],
          environment: try Installation.agentEnvironment(directory.path).merging(["ALLOCS_EVENTS": text]) { $1 })
        #expect(outcome.ending == .exit(0) && outcome.errors == "")
        let segment = try Segment(path: #require(directory.segments().first))
        #expect((segment.ringCount > 0) == (value == "1"), "\(text)")
        #expect(segment.counter("settings_refused") == 0)
      }
    }

    /// A setting, its values as the environment has them and as the agent gets them, and values that it can't have.
    private static let values: [(key: String, right: [(String, String)], wrong: [String])] = [
      ("stacks", [("full", "full"), ("Site", "site"), ("CHECK", "check")], ["some", "s", "sites", "full|site", "1"]),
      (
        "depth", [("1", "1"), ("128", "128"), ("007", "7")],
        ["0", "129", "-1", "+1", "ten", "1K", "1.5", "99999999999999999999"]
      ),
      ("events_wait", [("0", "0"), ("10000", "10000")], ["10001", "-1", "1s", "x"]),
      (
        "ring",
        [("16K", "16384"), ("16384", "16384"), ("8m", "8388608"), ("1GiB", "1073741824"), ("1g", "1073741824")],
        ["8G", "1K", "0", "8X", "8 M", "M", "-8M", "16383", "1073741825", "8MB", "99999999999999999999T"]
      ),
      ("totals", [("off", "0"), ("1", "1")], ["some", "2"]),
      ("events", [("on", "1")], ["maybe", "2", "-1", "ye", "yes ", "onn", "10"]),
      ("follow", [("No", "0")], ["nope"]), ("free_stacks", [("true", "1")], ["t"]), ("verbose", [("off", "0")], ["of"]),
    ]

    /// The keys of the settings that people may give: of texts, which have any value, and of the others.
    private static func keys(ofTexts: Bool) throws -> [String] {
      try (0..<UInt32(ALLOCS_SETTING_COUNT.rawValue)).compactMap { id in
        let setting = try #require(allocs_setting_at(id)).pointee
        guard setting.scope != ALLOCS_SCOPE_INTERNAL.rawValue else { return nil }
        guard (setting.kind == ALLOCS_KIND_TEXT.rawValue) == ofTexts else { return nil }
        return String(cString: allocs_setting_name(id)).lowercased()
      }
    }

    @Test("the tests here have values for each setting that not every text is a value of")
    func complete() throws {
      #expect(try Self.values.map(\.key).sorted() == Self.keys(ofTexts: false).sorted())
    }

    @Test("each setting has the values that it can have, from the environment; others are named with what there is")
    func values() throws {
      for setting in Self.values {
        let name = "ALLOCS_\(setting.key.uppercased())"
        for (text, value) in setting.right {
          let outcome = try run([name: text])
          #expect(lines(outcome).contains("\(name)=\(value)"), "\(name)=\(text): \(outcome)")
        }
        for text in setting.wrong {
          expect(try run([name: text]), refuses: ["allocsctl: \(name): \"\(text)\"", "give "])
        }
      }
      expect(try run(["ALLOCS_RING": "8G"]), refuses: ["from 16K to 1G"])
      expect(try run(["ALLOCS_DEPTH": "0"]), refuses: ["from 1 to 128"])
      expect(try run(["ALLOCS_EVENTS_WAIT": "10001"]), refuses: ["from 0 to 10000"])
      expect(try run(["ALLOCS_EVENTS": "maybe"]), refuses: ["true, yes or on", "false, no or off"])
    }

    @Test("each setting may be in the configuration, and is named with its line if it is wrong")
    func file() throws {
      for setting in Self.values {
        let name = "ALLOCS_\(setting.key.uppercased())"
        for (text, value) in setting.right where setting.key != "depth" && setting.key != "events_wait" {
          let outcome = try configured("# comment\n\(setting.key) = '\(text)'")
          #expect(lines(outcome).contains("\(name)=\(value)"), "\(name)=\(text): \(outcome)")
        }
        for text in setting.wrong where !text.contains("'") {
          expect(try configured("# comment\n\(setting.key) = '\(text)'"), refuses: ["allocs.toml:2: "])
        }
        expect(try configured("\(setting.key) = ['a', 'b']"), refuses: ["allocs.toml:1: ", "wrong kind", setting.key])
        expect(
          try configured("\(setting.key) = 1\n\(setting.key) = 2"), refuses: [":2: ", "set twice, first in line 1"])
      }
      for (text, line) in [
        ("depth = 128", "ALLOCS_DEPTH=128"), ("events_wait = 0", "ALLOCS_EVENTS_WAIT=0"),
        ("ring = 16384", "ALLOCS_RING=16384"), ("ring = 1_048_576", "ALLOCS_RING=1048576"),
      ] {
        let outcome = try configured(text)
        #expect(lines(outcome).contains(Substring(line)), "\(text): \(outcome)")
      }
      for text in [
        "depth = 129", "depth = -1", "events_wait = 10001", "ring = 1", "ring = -1", "ring = true", "events = 2",
      ] {
        expect(try configured(text), refuses: ["allocs.toml:1: ", "give "])
      }
      expect(try configured("event = true"), refuses: ["there is no key \"event\"", "did you mean events?"])
      expect(try configured("config = 'x'"), refuses: ["there is no key \"config\"", "the keys are "])
      expect(try configured("recorder = 1"), refuses: ["there is no key \"recorder\""])
    }

    @Test("options count more than the environment, and that more than the file")
    func order() throws {
      let directory = try TestDirectory()
      let file = try directory.write("ring = '1M'\nstacks = 'site'\nevents = false\nfollow = true\n", to: "allocs.toml")
      let environment = ["ALLOCS_RING": "2M", "ALLOCS_STACKS": "check", "ALLOCS_CONFIG": file]
      let some = try run(environment)
      #expect(
        lines(some).isSuperset(of: ["ALLOCS_RING=2097152", "ALLOCS_STACKS=check", "ALLOCS_EVENTS=0", "ALLOCS_FOLLOW=1"]
        ),
        "\(some)")
      let all = try run(environment, options: ["--ring", "4m", "--stacks", "full", "--events", "--free-stacks"])
      #expect(
        lines(all).isSuperset(of: [
          "ALLOCS_RING=4194304", "ALLOCS_STACKS=full", "ALLOCS_EVENTS=1", "ALLOCS_FREE_STACKS=1", "ALLOCS_FOLLOW=1",
        ]), "\(all)")
      expect(try run([:], options: ["--ring", "8G"]), refuses: ["--ring: \"8G\"", "from 16K to 1G"])
      // Options with values, without the --.
      let outcome = try Tool.control(
        ["run", "--ring", "64K", "--events", "sh", "-c", "echo $ALLOCS_RING"], in: directory)
      #expect(outcome.output == "65536\n", "\(outcome)")
    }

    @Test("`run --events --free-stacks` records from the start who allocated and who freed")
    func events() throws {
      let directory = try TestDirectory()
      let outcome = try Tool.control(
        ["run", "--events", "--free-stacks", "--ring", "4M", "--", "ls", "/"], in: directory)
      let segment = try Segment(path: #require(directory.segments().first))
      let events = RingContents(of: segment).events
      #expect(events.contains { $0.kind == .alloc }, "\(outcome)")
      // Who freed is known of frees.
      #expect(events.contains { $0.kind == .free && $0.context != 0 })
    }

    @Test(
      "a variable whose name is nearly that of a setting is refused with that; other programs' variables are left alone"
    )
    func names() throws {
      for (wrong, right) in [
        ("EVENT", "EVENTS"), ("EVENTS_", "EVENTS"), ("EVNETS", "EVENTS"), ("events", "EVENTS"), ("RINGS", "RING"),
        ("RING_SIZE", "RING"), ("RNIG", "RING"), ("FOLOW", "FOLLOW"), ("FOLLOW_FORK", "FOLLOW"), ("STACK", "STACKS"),
        ("STACK_DEPTH", "DEPTH"), ("DEPHT", "DEPTH"), ("FREESTACKS", "FREE_STACKS"), ("FREE_STACK", "FREE_STACKS"),
        ("EVENT_WAIT", "EVENTS_WAIT"), ("SUBALLOCS", "SUBALLOC"), ("WRAPPER", "WRAPPERS"), ("LEVELS", "LEVEL"),
        ("DIRECTORY", "DIR"), ("VERBOS", "VERBOSE"), ("VERBOSITY", "VERBOSE"), ("CONFG", "CONFIG"),
        ("SOCKETS", "SOCKET"),
      ] {
        expect(
          try run(["ALLOCS_\(wrong)": "1"]),
          refuses: ["there is no setting ALLOCS_\(wrong)", "did you mean ALLOCS_\(right)?"])
      }
      let outcome = try run(["ALLOCS_OF_MY_OWN": "1", "ALLOCATION": "2", "MY_ALLOCS_EVENT": "3", "ALLOCS_BIN_DIR": "/"])
      #expect(lines(outcome).isSuperset(of: ["ALLOCS_OF_MY_OWN=1", "ALLOCATION=2", "MY_ALLOCS_EVENT=3"]), "\(outcome)")
    }

    @Test("a value that the agent can't read, preloaded by hand, is left out, counted, and said on request")
    func byHand() throws {
      for (name, text) in [
        ("EVENTS", "maybe"), ("FOLLOW", "2"), ("STACKS", "sight"), ("STACKS", "checked"), ("DEPTH", "0"),
        ("DEPTH", "12x"),
        ("RING", "8G"), ("RING", "8X"), ("EVENTS_WAIT", "-1"), ("FREE_STACKS", "y"),
      ] {
        let directory = try TestDirectory()
        var environment = try Installation.agentEnvironment(directory.path)
        environment["ALLOCS_\(name)"] = text
        let quiet = try ChildProcess.run(["true"], environment: environment)
        #expect(quiet.ending == .exit(0) && quiet.errors == "")
        let segment = try Segment(path: #require(directory.segments().first))
        #expect(segment.counter("settings_refused") == 1, "\(name)=\(text)")
        #expect(segment.hasFullStacks && segment.ringCount == 0, "\(name)=\(text)")
        environment["ALLOCS_VERBOSE"] = "yes"
        let verbose = try ChildProcess.run(["true"], environment: environment)
        #expect(verbose.errors.contains("ALLOCS_\(name)") && verbose.errors.contains(text), "\(verbose.errors)")
        #expect(verbose.errors.split(separator: "\n").count == 1)
      }
      let directory = try TestDirectory()
      var environment = try Installation.agentEnvironment(directory.path)
      for name in ["EVENTS", "FOLLOW", "STACKS", "DEPTH", "RING", "LEVEL", "VERBOSE"] {
        environment["ALLOCS_\(name)"] = ""
      }
      #expect(try ChildProcess.run(["true"], environment: environment).errors == "")
      #expect(try Segment(path: #require(directory.segments().first)).counter("settings_refused") == 0)
    }

    @Test("a directory in which the agent could make no index is said, whoever asks; a relative one or a link is found")
    func directories() throws {
      let directory = try TestDirectory()
      let file = try directory.write("", to: "file")
      for (path, words) in [
        ("/nonexistent/index", "No such file"), (file, "Not a directory"), ("/proc", "No such file"),
        ("/proc/self/fd", "No such file"),
        ("\(file)/x", "Not a directory"),
      ] {
        let outcome = try run(["ALLOCS_DIR": path], ["echo", "started"])
        #expect(outcome.ending == .exit(1) && outcome.output == "", "\(path): \(outcome)")
        #expect(outcome.errors.contains("ALLOCS_DIR \(path): ") && outcome.errors.contains(words), "\(outcome.errors)")
      }
      let index = try directory.directory("index")
      symlink(index, directory.file("link"))
      for name in ["link", "index"] {
        let outcome = try ChildProcess.run(
          ["sh", "-c", "cd '\(directory.path)' && ALLOCS_DIR=\(name) exec \"$@\"", "sh"]
            + [Installation.path(of: "allocsctl"), "run", "--", "sh", "-c", "cd / && env true"])
        #expect(outcome.ending == .exit(0), "\(outcome.errors)")
        let found = try FileManager.default.contentsOfDirectory(atPath: index).filter { $0.hasSuffix(".seg") }
        #expect(found.count == (name == "link" ? 2 : 4), "\(found)")
      }
      #expect(try FileManager.default.contentsOfDirectory(atPath: index).allSatisfy { !$0.hasPrefix(".") })
    }

    @Test("the agent says in words why it can't")
    func words() throws {
      var environment = try Installation.agentEnvironment("/nonexistent")
      environment["ALLOCS_VERBOSE"] = "on"
      let none = try ChildProcess.run(["true"], environment: environment)
      #expect(
        none.errors.contains("cannot open the segment directory (no such file or directory) — "), "\(none.errors)")
      environment["ALLOCS_DIR"] = "/etc/passwd"
      let file = try ChildProcess.run(["true"], environment: environment)
      #expect(file.errors.contains("(not a directory)"), "\(file.errors)")
    }

    @Test("`run --stacks` takes each word of ALLOCS_STACKS, and its help has them all")
    func stacks() throws {
      let words = String(cString: allocs_setting_words(ALLOCS_SETTING_STACKS.rawValue))
      for word in words.split(separator: "|") {
        let outcome = try run([:], options: ["--stacks", String(word)])
        #expect(lines(outcome).contains("ALLOCS_STACKS=\(word)"), "\(outcome)")
      }
      expect(try run([:], options: ["--stacks", "some"]), refuses: ["--stacks", "'full'", "'check'"])
      #expect(try Tool.control(["run", "--help"], in: TestDirectory()).output.contains("[--stacks \(words)]"))
    }

    @Test("the help of `run` names every setting, in 80 columns")
    func help() throws {
      let directory = try TestDirectory()
      let help = try Tool.control(["run", "--help"], in: directory)
      let lines = help.output.split(separator: "\n").map { $0.split(separator: " ") }
      for key in try Self.keys(ofTexts: true) + Self.keys(ofTexts: false) {
        // The variable, the key or -, and the words.
        let name = "ALLOCS_\(key.uppercased())"
        #expect(lines.contains { $0.first == name[...] && $0.count > 2 }, "\(name)")
      }
      #expect(!help.output.contains("RECORDER"))
      #expect(help.output.split(separator: "\n").allSatisfy { $0.count <= 80 })
    }
  }
}
