// SPDX-License-Identifier: Apache-2.0
// The forms of answers, and which form a request asks for.

import Answers
import Hummingbird

/// A form in which answers are given, by its media type.
enum MediaKind: String {
  case text = "text/plain; charset=utf-8"
  case json = "application/json"
  /// One object a line.
  case jsonLines = "application/x-ndjson"

  /// The form that the request asks for: text if `Accept` names text/plain with no lesser weight than JSON, else JSON.
  init(accepting request: Request) { self = Self.accepted(by: request).kind }

  /// The form, and the columns that a line of text is to have: `text/plain; columns=120`. What is no number is passed
  /// over, as a weight is.
  static func accepted(by request: Request) -> (kind: MediaKind, columns: Int) {
    var best: (kind: MediaKind, quality: Double, columns: Int)?
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
        let asked = parts.dropFirst().first { $0.hasPrefix("columns=") }
        let columns = asked.flatMap { TextLayout.columns(askedFor: $0.drop { $0 != "=" }.dropFirst()) }
        if quality > 0, quality > (best?.quality ?? 0) {
          best = (kind, quality, columns ?? TextLayout.usualColumns)
        }
      }
    }
    return (best?.kind ?? .json, best?.columns ?? TextLayout.usualColumns)
  }

  /// This form for a list: JSON has one object a line then.
  var ofList: MediaKind { self == .text ? .text : .jsonLines }
}

extension Request {
  /// Columns of a line of the answer, if that is text.
  var columns: Int { MediaKind.accepted(by: self).columns }
}
