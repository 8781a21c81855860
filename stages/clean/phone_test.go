package clean

import (
	"slices"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// Numbers as people write them, of countries with different habits: trunk zeros that go and one (Italy's) that stays, none at
// all, national numbers that begin with the country's code.
func TestPhoneNumbers(t *testing.T) {
	for _, c := range []struct{ region, number, want string }{
		{"GB", "020 7031 3000", "+442070313000"},
		{"GB", "(020) 7031-3000", "+442070313000"},
		{"GB", "07400 123456", "+447400123456"},
		{"GB", "+44 (0)20 7031 3000", "+442070313000"},
		{"GB", "0044 20 7031 3000", "+442070313000"},
		{"GB", "+1 212-736-5000", "+12127365000"},
		{"GB", "001 212 736 5000", "+12127365000"},
		{"GB", "\u00a0020\u00a07031\u00a03000 ", "+442070313000"},
		{"US", "(212) 736-5000", "+12127365000"},
		{"US", "1-212-736-5000", "+12127365000"},
		{"US", "212.736.5000", "+12127365000"},
		{"US", "011 44 20 7031 3000", "+442070313000"},
		{"US", "00442070313000", "+442070313000"},
		{"DE", "030 / 22 73 30 27", "+493022733027"},
		{"DE", "0171 1234567", "+491711234567"},
		{"DE", "+49 (0) 30 227-33027", "+493022733027"},
		{"FR", "01 42 68 53 00", "+33142685300"},
		{"FR", "06.12.34.56.78", "+33612345678"},
		{"IT", "06 6982", "+39066982"},
		{"IT", "347 123 4567", "+393471234567"},
		{"ES", "912 34 56 78", "+34912345678"},
		{"DK", "32 12 34 56", "+4532123456"},
		{"IN", "098765 43210", "+919876543210"},
		{"BR", "(11) 96123-4567", "+5511961234567"},
		{"AU", "0412 345 678", "+61412345678"},
		{"JP", "03-3213-1111", "+81332131111"},
		{"RU", "8 (912) 345-67-89", "+79123456789"},
		{"EG", "٠١٠٠١٢٣٤٥٦٧", "+201001234567"},

		{"GB", "7031 3000", ""},              // without the town's code
		{"GB", "12345", ""},                  // no number of the country
		{"GB", "+44 20 7031", ""},            // cut off
		{"GB", "+999 123 456 789", ""},       // no country
		{"US", "123-456-7890", ""},           // no area begins with 1
		{"GB", "999", ""},                    // everybody's
		{"GB", "020 7031 3000 ext. 12", ""},  // somebody behind a switchboard
		{"GB", "020 7031 3000 #12", ""},      //
		{"GB", "call 020 7031 3000", ""},     //
		{"US", "1-800-FLOWERS", ""},          //
		{"GB", "a@b.c", ""},                  //
		{"GB", "", ""},                       //
		{"GB", "+", ""},                      //
		{"GB", strings.Repeat("0", 200), ""}, //
	} {
		if got := e164(c.number, c.region); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.region, c.number, got, c.want)
		}
	}
}

// FuzzPhoneNumber: whatever is written, nothing breaks, and what comes out is a number that stays itself in every region.
func FuzzPhoneNumber(f *testing.F) {
	for _, seed := range []string{"020 7031 3000", "+1 212-736-5000;ext=5", "00", "+", "tel:+44;phone-context=+1", "٠١٠٠", "\xff", "8 (912) 345-67-89"} {
		f.Add(seed, "GB")
	}
	f.Fuzz(func(t *testing.T, number, region string) {
		if checkRegion(region) != nil {
			region = "GB"
		}
		got := e164(number, region)
		if got == "" {
			return
		}
		if len(got) > 16 || got[0] != '+' || strings.Trim(got[1:], "0123456789") != "" {
			t.Fatalf("%q of %s is %q, which is no E.164", number, region, got)
		}
		for _, r := range []string{region, "US", "IT"} {
			if again := e164(got, r); again != got {
				t.Fatalf("%q is %q in %s", got, again, r)
			}
		}
	})
}

func TestPhoneRegions(t *testing.T) {
	for region, want := range map[string]string{
		"GB": "", "DE": "", "US": "",
		"UK": `"UK" is no country: write its two letters, such as GB or DE, did you mean "GB"?`,
		"uk": `"uk" is no country: write its two letters, such as GB or DE, did you mean "GB"?`,
		"gb": `"gb" is no country: write its two letters, such as GB or DE, did you mean "GB"?`,
		"44": `"44" is no country: write its two letters, such as GB or DE`,
	} {
		env := &pipeline.Env{Identities: pipeline.NewIdentities(nil)}
		_, problems := Kind.Build(&Config{PhoneRegion: region}, env)
		var got []string
		for _, p := range problems {
			got = append(got, p.Message)
		}
		if want == "" && problems != nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", region, got, want)
		}
	}
}
