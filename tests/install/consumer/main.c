/* Uses an installed hax: the library that is loaded has to be the one the headers belong to. */
#include <hax/hax.h>
#include <stdio.h>

int main(void) {
  if (hax_version() != HAX_VERSION) {
    fprintf(stderr, "headers are of version %d, the library is of version %d\n", HAX_VERSION,
            hax_version());
    return 1;
  }
  printf("hax %s: %s\n", hax_version_string(), hax_status_name(HAX_SUCCESS));
  return 0;
}
