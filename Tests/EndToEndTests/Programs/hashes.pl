# Hashes, regular expressions, sorting and strings in Perl, and what a child says.
use strict;
use warnings;
my %count;
my $seed = 42;
for my $i (1 .. 60000) {
  $seed = ($seed * 1103515245 + 12345) % 2147483648;
  my $word = "w" . int($seed / 65536) % 3000;
  push @{$count{$word}}, $i if $word =~ /^w(\d)\d*\1$/;
}
my @words = sort { @{$count{$b}} <=> @{$count{$a}} || $a cmp $b } keys %count;
print join(" ", map { "$_:" . scalar(@{$count{$_}}) } @words[0 .. 9]), "\n";
my $text = join(",", map { sprintf "%05d", $_ * 7919 % 10007 } 1 .. 10000);
$text =~ s/(\d)(\d)/$2$1/g;
print length($text), " ", unpack("%32C*", $text), "\n";
print `echo from a child`;
