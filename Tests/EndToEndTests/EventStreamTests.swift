// SPDX-License-Identifier: Apache-2.0
// Live events: the same with a server and without one, filtered, to the process's end; and what readers and processes
// that misbehave do to others.

import Foundation
import TestSupport
import Testing

/// The contents of a file that an export wrote, in the binary form.
struct Exported {
  /// Events of blocks of one size.
  private(set) var blocks = 0
  private(set) var lost: UInt64 = 0
  /// Whether the stream says at its end that the process ended.
  private(set) var hasEnd = false

  init(_ path: String, size: UInt64) throws {
    let bytes = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    func word(_ at: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[at + $1]) << UInt64($1 * 8) } }
    try #require(String(decoding: bytes.prefix(8), as: UTF8.self) == "ALLOCEVS")
    var place = 16
    while place + 32 <= bytes.count {
      let (kind, a, b) = (word(place) & 0xFFFF_FFFF, word(place + 8), Int(word(place + 16)))
      place += 32
      switch kind {
      case 1:
        try #require(place + b * 32 <= bytes.count)
        for _ in 0..<b {
          if word(place + 8) & 0xFFFF_FFFF_FFFF == size { blocks += 1 }
          place += 32
        }
      case 2: lost += a
      default: hasEnd = kind == 4 && a == 1
      }
    }
    #expect(place == bytes.count)
  }
}

extension EndToEnd {
  @Suite("live events")
  struct EventStreams {
    enum Way: CaseIterable { case direct, server }

    @Test("every allocation and free of a quiet program is told, with names, to its end", arguments: Way.allCases)
    func everything(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watcher = try program.watch(["--json"], server: server)
      try program.tell("pairs 100 4321")
      try program.tell("thread 50 777")
      try program.process.send("end\n")
      _ = try program.process.wait()
      let outcome = try watcher.wait()
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      #expect(outcome.errors.isEmpty)
      let objects = try Tool.objects(outcome.output)
      func count(_ event: String, _ size: Int) -> Int {
        objects.count { $0["event"] as? String == event && $0["size"] as? Int == size }
      }
      #expect(count("alloc", 4321) == 100)
      #expect(count("free", 4321) == 100)
      #expect(count("alloc", 777) == 50)
      #expect(count("free", 777) == 50)
      #expect(objects.last?["event"] as? String == "end")
      let first = try #require(objects.first { $0["size"] as? Int == 4321 })
      #expect(first["function"] as? String == "malloc")
      #expect((first["site"] as? [String: Any])?["function"] as? String == "pairs")
      #expect((first["thread"] as? [String: Any])?["id"] as? Int == Int(program.pid))
      let helper = try #require(objects.first { $0["size"] as? Int == 777 })
      #expect((helper["thread"] as? [String: Any])?["name"] as? String == "helper")
      #expect(!objects.contains { $0["event"] as? String == "lost" })
    }

    @Test("mappings that come and go are told, with who made them, and --kind map picks them", arguments: Way.allCases)
    func mappings(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watcher = try program.watch(["--json", "--kind", "map"], server: server)
      let size = 5 << 20
      try program.tell("pairs 10 150")
      let address = try #require(try program.tell("map \(size)").first)
      try program.process.send("end\n")
      _ = try program.process.wait()
      let objects = try Tool.objects(try watcher.wait().output)
      let told = objects.filter { $0["size"] as? Int == size }
      #expect(told.map { $0["event"] as? String } == ["map", "unmap"])
      for event in told {
        #expect(event["address"] as? String == address)
        #expect((event["site"] as? [String: Any])?["function"] as? String == "main", "\(event)")
      }
      #expect(told.first?["function"] as? String == "mmap")
      #expect(!objects.contains { ["alloc", "free"].contains($0["event"] as? String) })
    }

    @Test("conditions leave out what does not fit", arguments: Way.allCases)
    func conditions(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watchers = try [
        ["--size", "100-200"], ["--kind", "free"], ["--site", "pai*"], ["--site", "other"], ["--thread", "helper"],
        ["--function", "calloc"],
      ].map { try program.watch(["--json"] + $0, server: server) }
      try program.tell("pairs 10 150")
      try program.tell("pairs 10 5000")
      try program.tell("thread 10 150")
      try program.process.send("end\n")
      let found = try watchers.map { watcher in
        try Tool.objects(try watcher.wait().output).filter {
          ["alloc", "free"].contains($0["event"] as? String) && [150, 5000].contains($0["size"] as? Int)
        }
      }
      #expect(found[0].count == 40 && found[0].allSatisfy { $0["size"] as? Int == 150 })
      #expect(found[1].count == 30 && found[1].allSatisfy { $0["event"] as? String == "free" })
      #expect(found[2].count == 60)
      #expect(found[3].isEmpty)
      #expect(found[4].count == 20)
      #expect(found[5].isEmpty)
    }

    @Test("text fits 80 columns; ^C ends it with status 0 and turns events off", arguments: Way.allCases)
    func text(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watcher = try program.watch([], server: server)
      try program.tell("pairs 20 1234")
      try program.tell("thread 3 \(1 << 20)")
      func allocations(_ text: String) -> Int {
        text.split(separator: "\n").count { $0.contains(" alloc ") && $0.contains(" 1234 ") }
      }
      try wait(for: "all allocations are told", of: watcher) { allocations(watcher.said) == 20 }
      watcher.signal(SIGINT)
      let outcome = try watcher.wait()
      #expect(outcome.ending == .exit(0), "\(outcome)")
      let lines = outcome.output.split(separator: "\n")
      #expect(lines.first?.hasPrefix("time ") == true)
      #expect(allocations(outcome.output) == 20)
      #expect(lines.contains { $0.contains("pairs") })
      for line in lines { #expect(line.count <= 80, "\(line)") }
      try wait(for: "events go off") { !program.hasEventsOn }
      try program.tell("pairs 1 1")
    }

    @Test("a process killed in the middle: what it recorded is told, then the end", arguments: Way.allCases)
    func killed(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watcher = try program.watch(["--json", "--size", "48"], server: server)
      try program.process.send("die\n")
      let outcome = try watcher.wait()
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      let objects = try Tool.objects(outcome.output)
      #expect(objects.count { $0["event"] as? String == "alloc" } == 1000)
      #expect(objects.count { $0["event"] as? String == "free" } == 1000)
      #expect(objects.last?["event"] as? String == "end")
    }

    @Test("faster than anyone reads: what is told and what is lost make up everything", arguments: Way.allCases)
    func lost(_ way: Way) throws {
      let program = try Eventful()
      let server = way == .server ? try Server(program.directory) : nil
      let watcher = try program.watch(["--json"], server: server)
      try program.tell("pairs 1000000 64")
      try program.process.send("end\n")
      let outcome = try watcher.wait()
      #expect(outcome.ending == .exit(0), "\(outcome.errors)")
      var told = 0
      var lost = 0
      var last: [Int: Int] = [:]
      var gaps = 0
      for line in outcome.output.split(separator: "\n") {
        // All of them as JSON would take half a minute.
        func number(_ name: String) -> Int? {
          line.range(of: "\"\(name)\":").flatMap { Int(line[$0.upperBound...].prefix { $0.isNumber }) }
        }
        if line.hasPrefix("{\"event\":\"lost\"") {
          lost += try #require(number("count"))
          #expect(try #require(number("from_ns")) <= #require(number("to_ns")))
        } else if let ring = number("ring"), let sequence = number("sequence") {
          told += 1
          if let before = last[ring] {
            #expect(sequence > before)
            gaps += sequence - before - 1
          }
          last[ring] = sequence
        }
      }
      #expect(gaps <= lost)
      #expect(told + lost >= 2_000_000)
    }

    @Test("a client that never reads, and one killed: events go on for others, and off when all are gone")
    func deaf() throws {
      let program = try Eventful()
      let server = try Server(program.directory)
      // Stopped, so that it reads nothing; its connection stays.
      let deaf = try program.watch(["--json"], server: server)
      deaf.signal(SIGSTOP)
      let keen = try program.watch(["--json", "--size", "4321"], server: server)
      for _ in 0..<20 { try program.tell("pairs 10000 64") }
      try program.tell("pairs 100 4321")
      #expect(try server.metric("allocsd_events_subscribers") == 2)
      func allocations(_ text: String) -> Int { text.components(separatedBy: #""event":"alloc""#).count - 1 }
      try wait(for: "the other reader is told everything", of: keen) { allocations(keen.said) >= 100 }
      keen.signal(SIGINT)
      #expect(try allocations(keen.wait().output) == 100)
      #expect(program.hasEventsOn)
      deaf.signal(SIGKILL)
      try wait(for: "events go off, as nobody wants them") { !program.hasEventsOn }
      #expect(try server.request("/v1/processes").status == 200)
    }

    @Test("a direct reader that is killed: the process turns its events off by itself")
    func killedReader() throws {
      let program = try Eventful()
      let watcher = try program.watch(["--json"])
      watcher.signal(SIGKILL)
      _ = try watcher.wait()
      try wait(for: "events go off") {
        try program.tell("pairs 100000 64")
        return !program.hasEventsOn
      }
    }

    @Test("the server exports every process to a file, by io_uring and without", arguments: [[], ["--no-io-uring"]])
    func export(_ options: [String]) throws {
      let directory = try TestDirectory()
      let files = try TestDirectory()
      let server = try Server(
        directory, options: ["--export", files.file("{pid}.events"), "--export-lossless"] + options)
      let program = try Eventful(in: directory, environment: ["ALLOCS_EVENTS_WAIT": "10000"])
      let file = files.file("\(program.pid).events")
      try wait(for: "the export begins", of: server.process) {
        FileManager.default.fileExists(atPath: file) && program.hasEventsOn
      }
      try program.tell("pairs 200000 96")
      try program.process.send("end\n")
      _ = try program.process.wait()
      try wait(for: "the export ends", of: server.process) {
        server.process.errors.contains("export of events ended")
      }
      let exported = try Exported(file, size: 96)
      #expect(exported.hasEnd)
      #expect(UInt64(exported.blocks) + exported.lost >= 400_000)
      #expect(exported.lost == 0)
      #expect(server.process.errors.contains(options.isEmpty ? "by io_uring" : "by plain writes"))
    }

    @Test("a program that another one replaces by exec: each has a file of its own")
    func exec() throws {
      let directory = try TestDirectory()
      let files = try TestDirectory()
      let server = try Server(directory, options: ["--export", files.file("{pid}.events"), "--export-lossless"])
      let program = try Eventful(in: directory, environment: ["ALLOCS_EVENTS_WAIT": "10000"])
      func isExported(_ name: String) -> Bool {
        FileManager.default.fileExists(atPath: files.file(name)) && program.hasEventsOn
      }
      try wait(for: "the export begins", of: server.process) { isExported("\(program.pid).events") }
      try program.tell("pairs 1000 96")
      try program.process.send("exec\n")
      _ = try program.process.readLines(until: "ready")
      try wait(for: "the export of the second begins", of: server.process) { isExported("\(program.pid)-2.events") }
      try program.tell("pairs 2000 80")
      try program.process.send("end\n")
      _ = try program.process.wait()
      try wait(for: "both exports end", of: server.process) {
        server.process.errors.components(separatedBy: "export of events ended").count == 3
      }
      let first = try Exported(files.file("\(program.pid).events"), size: 96)
      let second = try Exported(files.file("\(program.pid)-2.events"), size: 80)
      #expect(first.blocks >= 2000 && first.lost == 0 && first.hasEnd)
      #expect(second.blocks >= 4000 && second.lost == 0 && second.hasEnd)
    }

    @Test("more lossless readers than a process has places for are told so")
    func crowd() throws {
      let program = try Eventful()
      let server = try Server(program.directory)
      let readers = try (0..<8).map { _ in try program.watch(["--json", "--lossless"], server: server) }
      #expect(try server.metric("allocsd_events_subscribers") == 8)
      let refused = try server.request("/v1/processes/\(program.pid)/events?policy=lossless")
      #expect(refused.status == 503 && refused.body.contains("8 consumers"), "\(refused)")
      for reader in readers { reader.signal(SIGKILL) }
    }

    @Test("wrong conditions, processes that ended, other users' processes: an error each")
    func errors() throws {
      let program = try Eventful()
      let server = try Server(program.directory)
      let events = "/v1/processes/\(program.pid)/events"
      for wrong in [
        "size=x", "size=5-4", "size=-", "range=9-3", "range=x", "kind=nothing", "site=", "policy=x", "color=red",
      ] {
        let answer = try server.request("\(events)?\(wrong)")
        #expect(answer.status == 400 && answer.body.hasPrefix("{\"error\":"), "\(wrong): \(answer)")
      }
      for arguments in [["--size", "x"], ["--kind", "x"], ["--range", "5-4"], ["--stacks"]] {
        let outcome = try Tool.control(["events", program.pid] + arguments, in: program.directory)
        #expect(outcome.ending == .exit(64) && outcome.errors.hasPrefix("allocsctl: "), "\(outcome)")
      }
      if getuid() == 0 {
        chmod(program.directory.path, 0o755)
        let stranger = try server.request(events, as: OtherUsers.nobody)
        #expect(stranger.status == 403, "\(stranger)")
      }
      #expect(!program.hasEventsOn)
      try program.process.send("end\n")
      _ = try program.process.wait()
      #expect(try server.request(events).status == 404)
      let dead = try Tool.control(["events", program.pid], in: program.directory)
      #expect(dead.ending == .exit(1) && dead.errors.contains("has ended"), "\(dead)")
      #expect(try server.request("/v1/processes/999999999/events").status == 404)
    }
  }
}
