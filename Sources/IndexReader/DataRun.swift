// SPDX-License-Identifier: Apache-2.0
// Which parts of a segment's file hold data: reading a hole of a tmpfs file through a mapping
// allocates the page, so a reader that believed a summary of nothing but holes would fill the file
// system.

/// The last answers of the kernel about one arena. A hole stays one for the search that met it: at
/// that moment nothing started there.
struct DataRun {
  /// Bytes of the file that held data, and bytes that didn't.
  private var data = 0..<0
  private var hole = 0..<0

  /// Whether the file holds anything in `range`. Two system calls, or four, where the place has not
  /// been asked for; `before`: bytes below the range that are asked for with it, for a search that
  /// goes downwards.
  mutating func holdsData(in range: Range<Int>, before: Int, _ windows: FileWindows) -> Bool {
    if data.contains(range.lowerBound) { return true }
    if hole.contains(range.lowerBound), range.upperBound <= hole.upperBound { return false }
    if before > 0, let found = windows.data(from: max(0, range.lowerBound &- before)), found.contains(range.lowerBound) {
      data = found
      return true
    }
    let found = windows.data(from: range.lowerBound) ?? Int.max..<Int.max
    hole = range.lowerBound..<max(range.lowerBound, found.lowerBound)
    guard found.lowerBound < range.upperBound else { return false }
    data = found
    return true
  }
}
