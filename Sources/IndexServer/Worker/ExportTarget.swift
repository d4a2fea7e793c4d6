// SPDX-License-Identifier: Apache-2.0
// The destination of the events of all processes, as the option --export has it, and the process that opens it: a
// worker's system calls may not make files or connections, and the broker may not wait for any.

import Broker
import ByteText
import Dispatch
import EventExport
import Glibc
import SystemAccess

/// The destination of all events. `{pid}` in it stands for the process's number. Where a file of that name exists,
/// `-2`, `-3` and so on follow the number: the file is of a program that the process ran before, or of an earlier
/// process with that number.
struct ExportTarget: Sendable {
  private let text: String

  /// Throws if the text is no destination, or names a file that all processes would share.
  init(_ text: String) throws(Complaint) {
    self.text = text
    if case .file = try Self.address(text, process: "1"), !text.contains("{pid}") {
      throw Complaint(
        .usage, what: "the file \(text) would be written by all processes", advice: "put {pid} into its name")
    }
  }

  /// Creates the file, or connects.
  func open(processID: Int32) throws(Complaint) -> Destination {
    var number = 1
    while true {
      do throws(Complaint) {
        return try Self.address(text, process: number == 1 ? "\(processID)" : "\(processID)-\(number)").open()
      } catch {
        guard error.code == EEXIST, number < 1000 else { throw error }
        number &+= 1
      }
    }
  }

  private static func address(_ text: String, process: String) throws(Complaint) -> DestinationAddress {
    try DestinationAddress(
      text.split(separator: "{pid}", omittingEmptySubsequences: false).joined(separator: process))
  }
}

/// Opens destinations at the broker's word, as the broker's user, until it is told to stop. It reads nothing that
/// anybody else wrote: a request is the number of a process.
struct Opener {
  let target: ExportTarget
  let link: BrokerLink

  func run() -> Never {
    let queue = DispatchQueue(label: "allocsd.destinations", attributes: .concurrent)
    // A connection may take long; so many may be under way at a time.
    let places = DispatchSemaphore(value: 32)
    link.begin(loops: [], onLook: {}, onStop: { _exit(0) }) { [target, link] message in
      places.wait()
      queue.async {
        defer { places.signal() }
        do throws(Complaint) {
          guard let id = Int32(exactly: message.value) else { return }
          let destination = try target.open(processID: id)
          let reply = Message(.opened, number: message.number, text: Array(destination.name.utf8))
          destination.withDescriptor { link.send(reply, passing: $0) }
        } catch {
          link.send(Message(.opened, number: message.number, text: Array(error.description.utf8)), passing: -1)
        }
      }
    }
    while true { pause() }
  }
}
