int check_update(double gclip, double gscale) {
  if (!isfinite(gclip) || gclip < 0) return knet_fail(KNET_ARGUMENT, "gclip cannot be %g", gclip);
  if (!isfinite(gscale)) return knet_fail(KNET_ARGUMENT, "gscale cannot be %g", gscale);
  return 0;
}
