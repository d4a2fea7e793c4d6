// SPDX-License-Identifier: Apache-2.0
// The page's files as the server gives them, the map of the address space, the description of the API held against the
// server, and the page over TCP. What a browser makes of the page: `make page`.

import Foundation
import SystemAccess
import TestSupport
import Testing

extension EndToEnd {
  @Suite("the page")
  struct Pages {
    private static func curl(_ arguments: [String]) throws -> (status: Int, head: String, body: String) {
      let outcome = try ChildProcess.run(["curl", "-sS", "-i", "--max-time", "60", "-w", "\n%{http_code}"] + arguments)
      var text = outcome.output.replacingOccurrences(of: "\r\n", with: "\n")
      let status = Int(text.split(separator: "\n").last ?? "") ?? 0
      text = String(text[..<(text.lastIndex(of: "\n") ?? text.startIndex)])
      while text.hasPrefix("HTTP/1.1 100"), let end = text.range(of: "\n\n") { text = String(text[end.upperBound...]) }
      guard let end = text.range(of: "\n\n") else { return (status, text, outcome.errors) }
      return (status, text[..<end.lowerBound].lowercased(), String(text[end.upperBound...]))
    }

    private static func program(_ directory: TestDirectory) throws -> ChildProcess {
      let process = try ChildProcess(
        [Programs.path("phases.c")],
        environment: ChildProcess.baseEnvironment.merging(Installation.agentEnvironment(directory.path)) { $1 },
        conversing: true)
      for _ in 0..<2 {
        try process.send("\n")
        _ = try process.readLine()
      }
      return process
    }

    @Test("every file of the page has its type and its policy, loads nothing from elsewhere, and makes no markup")
    func files() throws {
      let server = try Server(TestDirectory())
      var paths = ["/"]
      var seen: Set<String> = []
      while let path = paths.popLast() {
        guard seen.insert(path).inserted else { continue }
        let (status, head, body) = try Self.curl(["--unix-socket", server.socket, "http://localhost\(path)"])
        #expect(status == 200, "\(path)")
        let type =
          switch (path as NSString).pathExtension {
          case "js": "text/javascript"
          case "css": "text/css"
          default: "text/html"
          }
        #expect(head.contains("content-type: \(type); charset=utf-8"), "\(path)")
        for field in [
          "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            + " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
          "x-content-type-options: nosniff", "referrer-policy: no-referrer",
        ] {
          #expect(head.contains(field), "\(path): \(field)")
        }
        #expect(!body.contains("//cdn") && !body.contains("https://"), "\(path)")
        for link in body.matches(of: /(?:href|src)="(\/[^"#]+)"/) { paths.append(String(link.1)) }
        for link in body.matches(of: /from "\.\/([a-z]+\.js)"/) { paths.append("/page/\(link.1)") }
      }
      let files = try FileManager.default.contentsOfDirectory(
        atPath: "\(Installation.packageDirectory)/Sources/Page/Files")
      let parts = files.filter { $0.hasSuffix(".js") || $0.hasSuffix(".css") }
      #expect(!parts.isEmpty && seen == Set(["/"] + parts.map { "/page/\($0)" }), "\(seen)")
      // The same for root, whose first request may be any worker's or the gatherer's.
      #expect(try server.request("/page/none.js").status == 404)
    }

    @Test("the map has every block once, and its cells lead to the blocks")
    func map() throws {
      let directory = try TestDirectory()
      let program = try Self.program(directory)
      let server = try Server(directory)
      let path = "/v1/processes/\(program.pid)"
      func object(_ path: String) throws -> [String: Any] {
        let (status, body) = try server.request(path)
        #expect(status == 200, "\(path): \(body.prefix(300))")
        return try #require(try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any])
      }
      let (map, top) = (try object("\(path)/map?cells=16384"), try object("\(path)/top"))
      func total(_ object: [String: Any]) -> [Int] {
        let total = object["total"] as? [String: Any]
        return [total?["bytes"] as? Int ?? -1, total?["blocks"] as? Int ?? -2]
      }
      #expect(total(map) == total(top))
      let spans = try #require(map["spans"] as? [[String: Any]])
      let cells = spans.flatMap { $0["cells"] as? [[Any]] ?? [] }
      #expect(cells.reduce(0) { $0 + ($1.first as? Int ?? 0) } == total(map)[0])
      let sites = try #require(map["sites"] as? [[String: Any]])
      let place = try #require(
        sites.firstIndex { ($0["site"] as? [String: Any])?["function"] as? String == "in_first" })
      let cell = try #require(cells.first { $0.count == 6 && $0[5] as? Int == place })
      let base = try #require(cell[2] as? String)
      let answer = try object("\(path)/query?address=\(base)")
      #expect(answer["base"] as? String == base)
      #expect((answer["site"] as? [String: Any])?["function"] as? String == "in_first")
      // One block by its own range.
      let end = try #require(UInt64(base.dropFirst(2), radix: 16)) + 1000
      let one = try object("\(path)/map?from=\(base)&to=0x\(String(end, radix: 16))")
      #expect(total(one) == [1000, 1])
      #expect(total(try object("\(path)/map?since=5d")) == total(map))
      #expect(total(try object("\(path)/map?until=5d")) == [0, 0])
      for wrong in [
        "cells=255", "cells=16385", "from=x", "from=0x2&to=0x1", "level=chunk", "nope=1", "since=@99999999999",
      ] {
        #expect(try server.request("\(path)/map?\(wrong)").status == 400, "\(wrong)")
      }
      let text = try server.request("\(path)/map", ["-H", "Accept: text/plain"]).body
      #expect(text.contains("START") && text.split(separator: "\n").allSatisfy { $0.count <= 80 })
      #expect(try server.request("/v1/processes/999999999/map").status == 404)
    }

    // MARK: the description

    private struct Description {
      let root: [String: Any]

      func resolve(_ value: Any?) -> [String: Any] {
        guard let object = value as? [String: Any] else { return [:] }
        guard let reference = object["$ref"] as? String else { return object }
        let steps = reference.dropFirst(2).split(separator: "/")
        return resolve(steps.reduce(root as Any?) { ($0 as? [String: Any])?[String($1)] })
      }

      /// What of a value doesn't agree with a schema: types, choices, required members, patterns, bounds, items.
      func faults(_ value: Any, _ schema: Any?, at place: String) -> [String] {
        let schema = resolve(schema)
        if let choices = schema["anyOf"] as? [Any] {
          let all = choices.map { faults(value, $0, at: place) }
          return all.contains([]) ? [] : all.last ?? []
        }
        if let choices = schema["enum"] as? [String] {
          return choices.contains(value as? String ?? "") ? [] : ["\(place): \(value) is none of \(choices)"]
        }
        switch schema["type"] as? String {
        case "object":
          guard let object = value as? [String: Any] else { return ["\(place) is no object"] }
          let missing = (schema["required"] as? [String] ?? []).filter { object[$0] == nil }
          var found = missing.map { "\(place) has no \($0)" }
          let known = schema["properties"] as? [String: Any] ?? [:]
          for (name, member) in object {
            if let schema = known[name] ?? schema["additionalProperties"] {
              found += faults(member, schema, at: "\(place).\(name)")
            }
          }
          return found
        case "array":
          guard let list = value as? [Any] else { return ["\(place) is no array"] }
          if let schemas = schema["prefixItems"] as? [Any] {
            return zip(list, schemas).flatMap { faults($0, $1, at: "\(place)[]") }
          }
          return schema["items"].map { items in list.flatMap { faults($0, items, at: "\(place)[]") } } ?? []
        case "string":
          guard let text = value as? String else { return ["\(place) is no string"] }
          guard let pattern = schema["pattern"] as? String else { return [] }
          let fits = text.range(of: pattern, options: .regularExpression) != nil
          return fits ? [] : ["\(place): \(text) is not \(pattern)"]
        case "integer":
          guard let number = value as? NSNumber, number.doubleValue.rounded() == number.doubleValue else {
            return ["\(place) is no integer"]
          }
          return number.doubleValue < schema["minimum"] as? Double ?? -.infinity ? ["\(place) is \(number)"] : []
        case "number": return value is NSNumber ? [] : ["\(place) is no number"]
        case "boolean": return value is NSNumber ? [] : ["\(place) is no boolean"]
        default: return []
        }
      }
    }

    /// Values of a parameter that the server takes.
    private static func values(_ name: String, _ schema: [String: Any], _ address: String) -> [String] {
      let known = [
        "since": ["1h"], "until": ["1s"], "younger": ["1h"], "older": ["1s"], "address": [address, "0x0"],
        "from": ["0x1000"], "to": ["0x7fffffffffff"],
        "within": ["size:10"], "divide": ["1s"], "site": ["in_*"], "wrapper": ["in_*"], "min-size": ["1"],
        "max-size": ["100000"], "for": ["100ms"], "every": ["1s"],
      ]
      if let known = known[name] { return known }
      if let choices = schema["enum"] as? [String] { return choices }
      if schema["type"] as? String == "boolean" { return ["true", "false"] }
      let bounds = [schema["minimum"], schema["maximum"]].compactMap { $0 as? Int }
      return bounds.map(String.init)
    }

    @Test("every route, parameter, status and member of openapi.json is the server's, and docs/http.md has all of them")
    func openAPI() throws {
      let directory = try TestDirectory()
      let program = try Self.program(directory)
      let server = try Server(directory)
      func get(_ path: String, _ options: [String] = []) throws -> (status: Int, head: String, body: String) {
        try Self.curl(["--unix-socket", server.socket, "-g", "http://localhost\(path)"] + options)
      }
      let text = try get("/openapi.json").body
      let root = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
      let description = Description(root: root)
      #expect(root["openapi"] as? String == "3.1.0")
      let paths = try #require(root["paths"] as? [String: [String: Any]])
      // As docs/http.md lists them.
      let document = try String(contentsOfFile: "\(Installation.packageDirectory)/docs/http.md", encoding: .utf8)
      let listed = Set(
        document.matches(of: /(?m)^### (GET|POST) (\/\S*)$/).map {
          let path = $0.2.replacingOccurrences(of: "PID", with: "{pid}")
          return "\($0.1.lowercased()) \(path.replacingOccurrences(of: "FILE", with: "{file}"))"
        })
      #expect(listed == Set(paths.flatMap { path, methods in methods.keys.map { "\($0) \(path)" } }))
      let blocks = try get("/v1/processes/\(program.pid)/blocks?site=in_first&limit=1").body
      let address = try #require(try Tool.objects(blocks).first?["base"] as? String)

      /// Asks, and holds the answer against the description of the operation.
      func check(_ operation: [String: Any], _ path: String, _ options: [String] = []) throws {
        let answer = try get(path, options)
        let responses = try #require(operation["responses"] as? [String: Any])
        let response = description.resolve(responses["\(answer.status)"])
        #expect(!response.isEmpty, "\(path): status \(answer.status) is not described")
        let type =
          answer.head.split(separator: "\n").first { $0.hasPrefix("content-type:") }?
          .dropFirst(13).split(separator: ";")[0].trimmingCharacters(in: .whitespaces) ?? "none"
        let content = response["content"] as? [String: [String: Any]] ?? [:]
        guard let form = content[type] else {
          Issue.record("\(path) \(options): the type \(type) is not described for \(answer.status)")
          return
        }
        switch type {
        case "application/json":
          let value = try JSONSerialization.jsonObject(with: Data(answer.body.utf8))
          #expect(description.faults(value, form["schema"], at: "answer") == [], "\(path)")
        case "application/x-ndjson":
          for line in try Tool.objects(answer.body) {
            #expect(description.faults(line, form["schema"], at: "line") == [], "\(path)")
          }
        default: break
        }
      }

      for (path, methods) in paths {
        for (method, value) in methods where !path.hasSuffix("/events") {
          let operation = description.resolve(value)
          let parameters = (operation["parameters"] as? [Any] ?? []).map { description.resolve($0) }
          let files = parameters.first { $0["name"] as? String == "file" }.map { description.resolve($0["schema"]) }
          if let names = files?["enum"] as? [String] {
            for name in names { try check(operation, path.replacingOccurrences(of: "{file}", with: name)) }
            try check(operation, path.replacingOccurrences(of: "{file}", with: "nothing.js"))
            continue
          }
          let place = path.replacingOccurrences(of: "{pid}", with: "\(program.pid)")
          let body = method == "post" ? ["--data-binary", "\(address)\nnone\n"] : []
          let query = parameters.filter { $0["in"] as? String == "query" }
          /// `to` is an address or a process.
          func values(_ name: String, _ parameter: [String: Any]) -> [String] {
            if name == "to", path.hasSuffix("/diff") { return ["\(program.pid)"] }
            return Self.values(name, Self.item(parameter, description), address)
          }
          // What is watched for as long as it is by itself would take this test a quarter of an hour.
          let needed = query.filter { $0["required"] as? Bool == true || $0["name"] as? String == "for" }
            .map { parameter -> String in
              let name = parameter["name"] as? String ?? ""
              return "\(name)=\(values(name, parameter)[0])"
            }
          let base = needed.isEmpty ? place : "\(place)?\(needed.joined(separator: "&"))"
          try check(operation, base, body)
          try check(operation, base, body + ["-H", "Accept: text/plain"])
          if path.contains("{pid}") {
            for other in ["999999999", "0", "x"] {
              try check(operation, base.replacingOccurrences(of: "/\(program.pid)", with: "/\(other)"), body)
            }
            let extra = needed.isEmpty ? "?" : "&"
            try check(operation, "\(base)\(extra)no-such-parameter=1", body)
          }
          for parameter in query {
            let name = try #require(parameter["name"] as? String)
            let others = needed.filter { !$0.hasPrefix("\(name)=") }
            let values = values(name, parameter)
            #expect(!values.isEmpty, "\(path): no value of \(name) is known")
            for value in values {
              let asked = "\(place)?\((others + ["\(name)=\(value)"]).joined(separator: "&"))"
              try check(operation, asked, body)
              #expect(try get(asked, body).status == 200, "\(asked)")
            }
          }
        }
      }
    }

    private static func item(_ parameter: [String: Any], _ description: Description) -> [String: Any] {
      let schema = description.resolve(parameter["schema"])
      return schema["type"] as? String == "array" ? description.resolve(schema["items"]) : schema
    }

    // MARK: over TCP

    @Test("allocsd --listen: who has the token asks as the user who started the server, by a front without rights")
    func listening() throws {
      let directory = try TestDirectory()
      chmod(directory.path, 0o1777)
      let program = try Self.program(directory)
      let server = try ChildProcess(
        [Installation.path(of: "allocsd"), "--socket", directory.file("socket"), "--listen", "127.0.0.1:0"],
        environment: ChildProcess.baseEnvironment.merging(["ALLOCS_DIR": directory.path]) { $1 }, conversing: true)
      let link = try #require(try server.readLine())
      let parts = try #require(try /(http:\/\/127\.0\.0\.1:\d+)\/#token=([0-9a-f]{64})/.wholeMatch(in: link))
      let (origin, bearer) = (String(parts.1), ["-H", "Authorization: Bearer \(parts.2)"])
      #expect(try Self.curl(["\(origin)/"]).status == 200)
      #expect(try Self.curl(["\(origin)/v1/processes"]).status == 401)
      #expect(try Self.curl(["\(origin)/v1/processes", "-H", "Host: evil.example"] + bearer).status == 421)
      func isAnswered() throws -> Bool {
        let list = try Self.curl(["\(origin)/v1/processes"] + bearer)
        let one = try Self.curl(["\(origin)/v1/processes/\(program.pid)/top"] + bearer)
        return list.status == 200 && list.body.contains("\"pid\":\(program.pid)") && one.status == 200
          && one.body.contains("in_first")
      }
      #expect(try isAnswered())
      // The process that reads what comes over TCP.
      func front() throws -> pid_t? {
        let children = try String(contentsOfFile: "/proc/\(server.pid)/task/\(server.pid)/children", encoding: .utf8)
        return children.split(separator: " ").compactMap { pid_t($0) }.first {
          (try? String(contentsOfFile: "/proc/\($0)/cmdline", encoding: .utf8))?.hasPrefix("allocsd: front") == true
        }
      }
      let first = try #require(try front())
      let status = try String(contentsOfFile: "/proc/\(first)/status", encoding: .utf8)
      #expect(status.contains("CapEff:\t0000000000000000") && status.contains("Seccomp:\t2"))
      if Restrictions.isRoot {
        // Neither root's nor a user's whom services run as.
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("Uid:") })
        let ids = Set(line.split(whereSeparator: \.isWhitespace).dropFirst())
        #expect(ids.count == 1 && !ids.contains("0") && !ids.contains("65534"), "\(line)")
      }
      kill(first, SIGKILL)
      try wait(for: "another front", of: server) { try front().map { $0 != first } ?? false }
      try wait(for: "an answer of the other front", of: server) { try isAnswered() }
      kill(server.pid, SIGTERM)
      #expect(try server.wait().ending == .exit(0))
      #expect(try Self.curl(["\(origin)/"]).status == 0)
    }

    @Test("allocsd --listen: what others could reach needs a file with the token, which nobody else may read")
    func listenRefusals() throws {
      let directory = try TestDirectory()
      func refusal(_ options: [String]) throws -> Outcome {
        try ChildProcess.run(
          [Installation.path(of: "allocsd"), "--socket", directory.file("socket")] + options,
          environment: ["ALLOCS_DIR": directory.path])
      }
      let token = try directory.write(String(repeating: "k", count: 40) + "\n", to: "token")
      chmod(token, 0o644)
      for (options, status, words) in [
        (["--listen", "0.0.0.0:0"], 64, "--token-file"), (["--listen", "example.org:80"], 64, "is no address"),
        (["--listen", "127.0.0.1:99999"], 64, "is no address"), (["--token-file", token], 64, "--listen"),
        (["--listen", "127.0.0.1:0", "--token-file", token], 64, "others may read"),
        (["--listen", "127.0.0.1:0", "--token-file", directory.file("none")], 64, "No such file"),
        (["--listen", "192.0.2.1:8080", "--token-file", token], 64, "others may read"),
      ] as [([String], Int32, String)] {
        let outcome = try refusal(options)
        #expect(outcome.ending == .exit(status) && outcome.errors.contains(words), "\(options): \(outcome)")
        #expect(outcome.output.isEmpty, "\(options)")
      }
    }

    @Test("allocsctl page passes on what has the token, refuses the rest, and ends with ^C")
    func front() throws {
      let directory = try TestDirectory()
      let program = try Self.program(directory)
      let server = try Server(directory)
      let front = try ChildProcess(
        [Installation.path(of: "allocsctl"), "page", "\(program.pid)", "--socket", server.socket],
        environment: ChildProcess.baseEnvironment, conversing: true)
      let link = try #require(try front.readLine())
      let form = /(http:\/\/127\.0\.0\.1:\d+)\/#token=([0-9a-f]{64})&process=(\d+)/
      let parts = try #require(try form.wholeMatch(in: link))
      let (origin, token) = (String(parts.1), String(parts.2))
      #expect(String(parts.3) == "\(program.pid)")
      let bearer = ["-H", "Authorization: Bearer \(token)"]
      let page = try Self.curl(["\(origin)/"])
      #expect(page.status == 200 && page.head.contains("content-security-policy") && page.body.contains("<main"))
      #expect(try Self.curl(["\(origin)/v1/processes"]).status == 401)
      #expect(try Self.curl(["\(origin)/v1/processes", "-H", "Authorization: Bearer \(token)0"]).status == 401)
      #expect(try Self.curl(["\(origin)/v1/processes?token=\(token)"]).status == 401)
      #expect(try Self.curl(["\(origin)/v1/processes", "-H", "Host: evil.example"] + bearer).status == 421)
      #expect(try Self.curl(["\(origin)/v1/processes", "-H", "Origin: http://evil.example"] + bearer).status == 403)
      let list = try Self.curl(["\(origin)/v1/processes"] + bearer)
      #expect(list.status == 200 && list.body.contains("\"pid\":\(program.pid)"))
      // Bodies go both ways, longer than any buffer in between.
      let addresses = directory.file("addresses")
      let lines = (0..<200_000).map { "0x\(String(0x1000 + $0, radix: 16))" }.joined(separator: "\n") + "\n"
      try Data(lines.utf8).write(to: URL(fileURLWithPath: addresses))
      let path = "/v1/processes/\(program.pid)/query?stacks=false"
      let passed = try ChildProcess.run(
        ["curl", "-sS", "\(origin)\(path)", "--data-binary", "@\(addresses)"] + bearer)
      #expect(passed.output.split(separator: "\n").count == 200_000 && passed.ending == .exit(0))
      // Connections that say nothing don't keep out who has the token.
      var silent: [ChildProcess] = []
      let port = origin.split(separator: ":").last ?? ""
      for _ in 0..<3 {
        silent.append(
          try ChildProcess(
            [
              "python3", "-c",
              "import socket,sys\nall=[socket.create_connection(('127.0.0.1',\(port))) for _ in range(40)]\n"
                + "print('on',flush=True)\nsys.stdin.read()",
            ], environment: ChildProcess.baseEnvironment, conversing: true))
        _ = try silent.last?.readLine()
      }
      #expect(try Self.curl(["\(origin)/v1/processes"] + bearer).status == 200)
      silent = []
      kill(front.pid, SIGINT)
      #expect(try front.wait().ending == .exit(0))
      // Without a server, and where others could come in, it says so.
      let none = try ChildProcess.run(
        [Installation.path(of: "allocsctl"), "page", "--socket", directory.file("none")],
        environment: ChildProcess.baseEnvironment)
      #expect(none.ending == .exit(1) && none.errors.contains("cannot connect to the server"))
      let open = try ChildProcess.run(
        [Installation.path(of: "allocsctl"), "page", "--socket", server.socket, "--listen", "0.0.0.0:0"],
        environment: ChildProcess.baseEnvironment)
      #expect(open.ending == .exit(64) && open.errors.contains("--token-file"))
    }
  }
}
