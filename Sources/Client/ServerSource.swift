// SPDX-License-Identifier: Apache-2.0
// Answers from a server, over HTTP on its socket (docs/http.md).
//
// bounded: texts, and lists of texts, that are put together; room for addresses that are in memory

import Answers
import Bounds
import ByteText
import NIOHTTP1
import Recording
import ServerProtocol
import SystemAccess

/// Asks a server.
final class ServerSource: AnswerSource {
  private let connection: ServerConnection
  /// Whether the server refused an answer for what it may take, or for whom it may be of, and not for what was asked.
  private(set) var hasMetLimit = false

  init(_ connection: ServerConnection) { self.connection = connection }

  func processes(_ selection: ProcessSelection, json: Bool) throws(Complaint) -> [UInt8] {
    let sort = selection.order.map { [("sort", $0.rawValue)] } ?? []
    let query = Self.parameters((selection.isLiveOnly ? [("live", "true")] : []) + sort)
    return try get("/v1/processes" + (query.isEmpty ? "" : "?\(query.dropFirst())"), json: json)
  }

  func summary(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8] { try get("/v1/processes/\(pid)", json: json) }

  func top(of pid: Int32, _ request: TopRequest, json: Bool) throws(Complaint) -> [UInt8] {
    let divisions =
      Self.parameters(request.divisions.map { ("divide", $0.text) })
      + (request.wantsTotals || request.sort == .rate ? "&totals=true" : "")
    return try get(
      "/v1/processes/\(pid)/top?limit=\(request.limit)&sort=\(request.sort)&group=\(request.grouping)\(divisions)"
        + Self.parameters(request.scope), json: json)
  }

  func marks(of pid: Int32, json: Bool) throws(Complaint) -> [UInt8] {
    try get("/v1/processes/\(pid)/marks", json: json)
  }

  func memory(of pid: Int32, pins: Bool, _ perspective: Perspective, json: Bool) throws(Complaint) -> [UInt8] {
    let parameters = Self.parameters(perspective.wrappers.map { ("wrapper", $0) })
    return try get("/v1/processes/\(pid)/memory?pinned=\(pins)\(parameters)", json: json)
  }

  func tree(of pid: Int32, _ request: TreeRequest, json: Bool) throws(Complaint) -> [UInt8] {
    try get(
      "/v1/processes/\(pid)/tree?limit=\(request.limit)&inverted=\(request.isInverted)"
        + Self.parameters(request.scope), json: json)
  }

  func export(
    _ process: NamedProcess, _ scope: ScopeRequest, _ format: FileFormat, to path: String,
    until interruption: Interruption
  ) throws(Complaint) {
    let uri = "/v1/processes/\(process.path)/profile?format=\(format.rawValue)" + Self.parameters(scope)
    let response = try file(uri, until: interruption)
    if let missing = response.missing { complain("process \(process.id): \(missing)") }
    let output = try ExportOutput(path: path)
    try output.write(response.body)
    try output.finish()
  }

  func snapshot(
    of pid: Int32, to path: String, until interruption: Interruption
  ) throws(Complaint) -> Snapshot.Result {
    let response = try file("/v1/processes/\(pid)/snapshot", until: interruption)
    let budget = Budget.ofExport()
    interruption.onInterruption { budget.cancel() }
    return try budget.run { () throws(Complaint) in
      let result = try Snapshot.check(response.body, of: "process \(pid)")
      let output = try ExportOutput(path: path)
      try output.write(response.body)
      try output.finish()
      return result
    }
  }

  /// A file in whole, whose bytes are not looked at.
  private func file(
    _ uri: String, until interruption: Interruption
  ) throws(Complaint) -> ServerConnection.Response {
    let connection = connection
    interruption.onInterruption { connection.close() }
    // What comes after it is done at once.
    defer { interruption.onInterruption {} }
    let response = try showing(Self.words) { () throws(Complaint) in try connection.send(.GET, uri, accept: "*/*") }
    guard response.status == 200 else { throw complaint(in: response) }
    return response
  }

  func difference(
    _ first: NamedProcess, _ second: NamedProcess, _ request: DifferenceRequest, json: Bool
  ) throws(Complaint) -> (bytes: [UInt8], growth: Int64, doubt: String?) {
    let parameters: [(String, String)] =
      [("to", second.path)] + (request.wantsTotals ? [("totals", "true")] : [])
      + (request.otherProgram ? [("other-program", "true")] : [])
    let uri =
      "/v1/processes/\(first.path)/diff?by=\(request.grouping)&limit=\(request.limit)" + Self.parameters(parameters)
      + Self.parameters(request.perspective)
    let response = try showing(Self.words) { () throws(Complaint) in
      try connection.send(.GET, uri, accept: json ? "application/json" : "text/plain")
    }
    guard response.status == 200 else { throw complaint(in: response) }
    guard let growth = response.growth else {
      throw Complaint(
        .obstacle, what: "the server does not say by how much live memory grew",
        advice: "start it anew with this version's allocsd, or use --direct")
    }
    return (TextLayout.lines(fromServer: response.body), growth, response.missing.map { TextLayout.printable($0) })
  }

  func blocks(of pid: Int32, _ request: BlocksRequest, json: Bool) throws(Complaint) -> [UInt8] {
    let parameters: [(String, String)] =
      request.sites.map { ("site", $0) }
      + [("min-size", "\(request.sizes.lowerBound)"), ("max-size", "\(request.sizes.upperBound)")]
    return try send(
      .GET,
      "/v1/processes/\(pid)/blocks?limit=\(request.limit)&sort=\(request.sort)" + Self.parameters(parameters)
        + Self.parameters(request.scope), json ? "application/x-ndjson" : Self.text, [])
  }

  func answers(
    of pid: Int32, to addresses: [UInt64], form: AnswerList.Form, stacks: Bool, _ perspective: Perspective
  ) throws(Complaint) -> [UInt8] {
    let resource = "/v1/processes/\(pid)/query?stacks=\(stacks)\(Self.parameters(perspective))"
    let accept = form == .text ? Self.text : "application/x-ndjson"
    // The server answers a few addresses on the thread that receives them; it hands a list to another thread.
    if !addresses.isEmpty, addresses.count <= RequestLimits.quickAddresses {
      let list = addresses.map { ("address", hex($0)) }
      return try send(.GET, resource + Self.parameters(list), accept, [])
    }
    var list = ByteWriter(capacity: addresses.count * 16)
    for address in addresses {
      list.append(address: address)
      list.append("\n")
    }
    return try send(.POST, resource, accept, list.take())
  }

  func events(of pid: Int32, _ request: EventRequest, until interruption: Interruption) throws(Complaint) {
    let policy = request.isLossless ? "lossless" : "overwrite"
    let query = Self.parameters(
      request.conditions + [("policy", policy), ("stacks", "\(request.stacks)")]
        + request.wrappers.map { ("wrapper", $0) })
    let connection = connection
    interruption.onInterruption { connection.close() }
    let response = try connection.receive(
      "/v1/processes/\(pid)/events?\(query.dropFirst())",
      accept: request.json ? "application/x-ndjson" : Self.text)
    if response.status != 200 { throw complaint(in: response) }
  }

  private static func parameters(_ perspective: Perspective) -> String {
    parameters(
      perspective.wrappers.map { ("wrapper", $0) } + (perspective.level.map { [("level", $0.rawValue)] } ?? []))
  }

  private static func parameters(_ scope: ScopeRequest) -> String {
    parameters(
      (scope.window.since.map { [("since", $0.text)] } ?? []) + (scope.window.until.map { [("until", $0.text)] } ?? [])
        + (scope.group.map { [("within", $0.text)] } ?? []) + (scope.countsMappings ? [("mapped", "true")] : []))
      + parameters(scope.perspective)
  }

  /// `&name=value` for each, all of a value but letters and digits as %XX.
  private static func parameters(_ parameters: [(name: String, value: String)]) -> String {
    var text = ""
    for (name, value) in parameters {
      text += "&\(name)="
      for byte in value.utf8 {
        let isPlain = byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26
        text += isPlain ? String(UnicodeScalar(byte)) : "%\(byte.hexadecimal)"
      }
    }
    return text
  }

  private static let words = "waiting for the server"

  /// The media type of text; an earlier server passes over the columns.
  private static var text: String {
    let columns = TextLayout.columns
    return columns == TextLayout.usualColumns ? "text/plain" : "text/plain;columns=\(columns)"
  }

  private func get(_ uri: String, json: Bool) throws(Complaint) -> [UInt8] {
    try send(.GET, uri, json ? "application/json" : Self.text, [])
  }

  private func send(
    _ method: HTTPMethod, _ uri: String, _ accept: String, _ body: [UInt8]
  ) throws(Complaint) -> [UInt8] {
    let response = try showing(Self.words) { () throws(Complaint) in
      try connection.send(method, uri, accept: accept, body: body)
    }
    if response.status == 200 { return TextLayout.lines(fromServer: response.body) }
    throw complaint(in: response)
  }

  /// The parameter that a server does not know, by its words (IndexServer/Worker/Routes.swift, Parameters).
  static func unknownParameter(_ message: String) -> Substring? {
    let start = "there is no parameter \""
    guard message.hasPrefix(start) else { return nil }
    return message.dropFirst(start.count).prefix { $0 != "\"" }
  }

  /// The server's complaint. Its words include the advice.
  private func complaint(in response: ServerConnection.Response) -> Complaint {
    hasMetLimit = [409, 413, 504].contains(response.status)
    let text = String(decoding: response.body, as: UTF8.self)
    let kind: Complaint.Kind =
      response.status == 400
      ? .usage
      : ErrorBody.isOfNoSuch("group", text)
        ? .noSuchGroup : ErrorBody.isOfNoSuch("totals", text) ? .noTotals : .obstacle
    if let message = ErrorBody.message(text) {
      if response.status == 400, let unknown = Self.unknownParameter(message) {
        // What this client asks for, a server of its own version knows.
        return Complaint(
          unknown == "totals" ? .noTotals : .obstacle,
          what: "the server is of an earlier version, which does not know what was asked for (\(unknown))",
          advice: "start it anew with this version's allocsd, or use --direct")
      }
      return Complaint(kind, what: message)
    }
    return Complaint(
      kind, what: "the server answered with status \(response.status)", advice: "see its log, or use --direct")
  }
}
