// SPDX-License-Identifier: Apache-2.0
// The headers of answers whose form has no place for a fact.

/// `Allocs-Missing: 12 blocks are not in the index`, of a file of another program: what the index lacks. Left out where
/// nothing is missing.
public enum MissingHeader {
  public static let name = "Allocs-Missing"
}

/// `Allocs-Growth: -4096`, of a comparison, also as text: the bytes that live in the second and not in the first.
public enum GrowthHeader {
  public static let name = "Allocs-Growth"
}
