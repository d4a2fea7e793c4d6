// SPDX-License-Identifier: Apache-2.0
// The forms of answers, and which form a request asks for.

import Hummingbird

/// A form in which answers are given, by its media type.
enum MediaKind: String {
  case text = "text/plain; charset=utf-8"
  case json = "application/json"
  /// One object a line.
  case jsonLines = "application/x-ndjson"

  /// The form that the request asks for: text if `Accept` names text/plain with no lesser weight than JSON, else JSON.
  init(accepting request: Request) {
    var best: (kind: MediaKind, quality: Double)?
    for field in request.headers[values: .accept] {
      for range in field.split(separator: ",") {
        let parts = range.split(separator: ";").map { $0.drop { $0 == " " } }
        let kind: MediaKind
        switch parts.first?.lowercased().replacing(" ", with: "") {
        case "text/plain", "text/*": kind = .text
        case "application/x-ndjson": kind = .jsonLines
        case "application/json", "application/*", "*/*": kind = .json
        default: continue
        }
        let weight = parts.dropFirst().first { $0.hasPrefix("q=") }
        let quality = weight.map { Double($0.dropFirst(2)) ?? 0 } ?? 1
        if quality > 0, quality > (best?.quality ?? 0) { best = (kind, quality) }
      }
    }
    self = best?.kind ?? .json
  }

  /// This form for a list: JSON has one object a line then.
  var ofList: MediaKind { self == .text ? .text : .jsonLines }
}
