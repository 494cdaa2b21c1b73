"""What evaluations can measure."""

# What evaluations can measure, each with what the data must have for it.
METRICS = {
    "critic/wasserstein_heldout": "samples",
    "critic/lipschitz": "samples",
    "wasserstein/exact": "samples",
    "wasserstein/sliced": "samples",
    "wasserstein/normalized": "samples",
    "critic/gradient_norms": "samples",
    "critic/weights": "samples",
    "metrics/precision_pixel": "images",
    "metrics/recall_pixel": "images",
    "metrics/fid_classifier": "labels",
    "metrics/class_kl": "labels",
    "metrics/classes_found": "labels",
    "metrics/kid_classifier": "labels",
    "metrics/is_classifier": "labels",
    "metrics/precision_classifier": "labels",
    "metrics/recall_classifier": "labels",
    "metrics/fid_inception": "images",
    "metrics/kid_inception": "images",
    "metrics/is_inception": "images",
    "metrics/precision_inception": "images",
    "metrics/recall_inception": "images",
    "metrics/modes_found": "modes",
    "metrics/share_within_3sigma": "modes",
}
