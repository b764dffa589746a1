"""One file a paper. `PRESETS` is the one list of names; strings, so that listing them imports nothing."""

PRESETS = {
    "videomae-k400-s": "tubelet.methods.videomae:k400_s",
    "videomae-k400-b": "tubelet.methods.videomae:k400_b",
    "videomae-k400-l": "tubelet.methods.videomae:k400_l",
    "videomae-k400-h": "tubelet.methods.videomae:k400_h",
    "videomae-ssv2-s": "tubelet.methods.videomae:ssv2_s",
    "videomae-ssv2-b": "tubelet.methods.videomae:ssv2_b",
    "videomae-ucf101-b": "tubelet.methods.videomae:ucf101_b",
    "videomae-hmdb51-b": "tubelet.methods.videomae:hmdb51_b",
    "videomae-small-gpu": "tubelet.methods.videomae:small_gpu",
    "videomae-small-cpu": "tubelet.methods.videomae:small_cpu",
    "videomae-demo": "tubelet.methods.videomae:demo",
}
