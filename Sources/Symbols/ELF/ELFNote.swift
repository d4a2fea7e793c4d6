// SPDX-License-Identifier: Apache-2.0
// The notes of an ELF file (System V gABI, chapter 5): who wrote it, with which properties, and its build id.

import Bounds
import ByteText

/// A note: three numbers, the owner's name and a content, of which the last two are padded.
public struct ELFNote: Hashable, Sendable {
  /// The owner's name, without the zero at its end.
  public let owner: ForeignText
  /// The meaning of the content, by the owner's own numbers.
  public let type: UInt32
  public let content: [UInt8]

  /// Longer notes are not read: none in use has a name of more than 256 bytes or a content of more than 4,096.
  private static let (longestName, longestContent) = (256, 4096)

  /// The notes in the bytes of a segment or a section, up to the first that is damaged. `alignment`: what names and
  /// contents are padded to, 4 or 8 bytes.
  public static func all(in bytes: some Collection<UInt8>, alignment: Int) -> [ELFNote] {
    let bytes = Array(bytes)
    var notes: [ELFNote] = []
    var offset = 0
    func padded(_ end: Int) -> Int { (end &+ alignment &- 1) & ~(alignment &- 1) }
    while let nameSize = bytes.number(at: offset, size: 4), let size = bytes.number(at: offset &+ 4, size: 4),
      let type = bytes.number(at: offset &+ 8, size: 4), let nameSize = Foreign(nameSize).int(upTo: Self.longestName),
      let size = Foreign(size).int(upTo: Self.longestContent)
    {
      let name = offset &+ 12
      let content = padded(name &+ nameSize)
      // The last content need not be padded.
      guard content &+ size <= bytes.count else { break }
      // bounded: the sizes are at least 0, see Foreign
      notes.append(
        ELFNote(
          owner: ForeignText(reversibly: bytes[name...].prefix(nameSize).prefix { $0 != 0 }),
          type: UInt32(truncatingIfNeeded: type), content: Array(bytes[content...].prefix(size))))
      offset = padded(content &+ size)
    }
    return notes
  }

  /// The GNU build id among notes; empty if there is none.
  public static func buildID(among notes: [ELFNote]) -> [UInt8] {
    let gnuBuildID: UInt32 = 3  // NT_GNU_BUILD_ID
    return notes.first { $0.owner == "GNU" && $0.type == gnuBuildID }?.content ?? []
  }
}
