package clean

import (
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/nyaruka/phonenumbers"

	"github.com/millstream-io/millstream/internal/suggest"
	"github.com/millstream-io/millstream/pipeline"
)

// maxPhone bounds what is looked at, in bytes: E.164 has 15 digits, and people write separators.
const maxPhone = 64

// e164 is a phone number, as people write it, in the form of E.164; one without a country's code is of the region. It is "" for
// what can be no number of its country (libphonenumber's rules), and for numbers that stand for more than one person:
// extensions behind a switchboard. Letters make no number here: "call me on 020 7946 0958" and 1-800-FLOWERS name nobody.
func e164(number, region string) string {
	if len(number) > maxPhone || strings.ContainsFunc(number, unicode.IsLetter) {
		return ""
	}
	if rest, ok := strings.CutPrefix(number, "00"); ok { // understood in every region, as without one
		if n := parse("+"+rest, region); n != "" {
			return n
		}
	}
	return parse(number, region)
}

func parse(number, region string) string {
	n, err := phonenumbers.Parse(number, region)
	if err != nil || n.GetExtension() != "" || !phonenumbers.IsValidNumber(n) {
		return ""
	}
	return phonenumbers.Format(n, phonenumbers.E164)
}

// checkRegion tells what is wrong with a region.
func checkRegion(region string) *pipeline.Problem {
	known := phonenumbers.GetSupportedRegions()
	if known[region] {
		return nil
	}
	hint := suggest.DidYouMean(region, slices.Sorted(maps.Keys(known)))
	if strings.EqualFold(region, "UK") {
		hint = `, did you mean "GB"?`
	}
	p := pipeline.Problemf([]string{"phone_region"}, "%q is no country: write its two letters, such as GB or DE%s", region, hint)
	return &p
}
