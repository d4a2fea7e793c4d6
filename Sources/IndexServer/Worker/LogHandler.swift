// SPDX-License-Identifier: Apache-2.0
// The server's log on standard error. Names in it come from other programs: characters that a terminal would act upon
// are escaped.

import Answers
import Logging

/// The library's own handler behind it writes the lines.
struct PrintableLogHandler: LogHandler {
  private var stream: StreamLogHandler

  init(label: String, level: Logger.Level) {
    stream = StreamLogHandler.standardError(label: label)
    stream.logLevel = level
  }

  var logLevel: Logger.Level {
    get { stream.logLevel }
    set { stream.logLevel = newValue }
  }

  var metadata: Logger.Metadata {
    get { stream.metadata }
    set { stream.metadata = newValue }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { stream[metadataKey: key] }
    set { stream[metadataKey: key] = newValue.map(Self.printable) }
  }

  func log(event: LogEvent) {
    var event = event
    event.message = "\(TextLayout.printable(event.message.description))"
    event.metadata = event.metadata?.mapValues(Self.printable)
    stream.log(event: event)
  }

  private static func printable(_ value: Logger.Metadata.Value) -> Logger.Metadata.Value {
    switch value {
    case .string(let text): .string(TextLayout.printable(text))
    case .stringConvertible(let value): .string(TextLayout.printable(value.description))
    case .array(let values): .array(values.map(printable))
    case .dictionary(let values): .dictionary(values.mapValues(printable))
    }
  }
}
