"""The phrases that the tiny tokenizer keeps whole: prompt wordings, question templates, things and answers."""

from __future__ import annotations

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2-VL's special tokens, in its order."""

THINGS: tuple[str, ...] = (
    *("armchair", "backpack", "basket", "bathtub", "bed", "bench", "bin", "blanket", "book", "bookshelf"),
    *("bowl", "box", "bucket", "cabinet", "carpet", "ceiling light", "chair", "clock", "closet", "coat hanger"),
    *("coffee table", "computer mouse", "computer tower", "couch", "counter", "crate", "cube", "cup"),
    *("curtain", "cushion", "desk", "dishwasher", "door", "drawer", "dresser", "fan", "fireplace"),
    *("fridge", "globe", "guitar", "headphones", "heater", "jacket", "keyboard", "lamp", "laptop"),
    *("microwave", "mirror", "monitor", "nightstand", "ottoman", "oven", "piano", "picture", "pillow"),
    *("plant", "pouf", "printer", "radiator", "refrigerator", "rug", "shelf", "shoes", "shower", "sink"),
    *("sofa", "speaker", "stool", "stove", "suitcase", "table", "telephone", "toilet", "towel", "toy"),
    *("trash bin", "trash can", "tv", "vase", "wardrobe", "washer", "washing machine", "whiteboard", "window"),
)
"""Names of furniture and household things: VSI-Bench's categories and their usual synonyms."""

DIRECTIONS: tuple[str, ...] = (
    *("left", "right", "back", "front", "front-left", "front-right", "back-left", "back-right"),
    *("Turn Left", "Turn Right", "Turn Back", "Go forward"),
)

NUMBER_WORDS: tuple[str, ...] = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("yes", "no", "none", "meters", "meter", "centimeters", "square meters"),
)

PROMPT_PHRASES: tuple[str, ...] = (
    "system\nYou are a helpful assistant.",
    "user\n",
    "assistant\n",
    "These are frames of a video.\n",
    *("\nOptions:", "\nA. ", "\nB. ", "\nC. ", "\nD. ", "\n", ", ", ". ", ": ", "(", ")", "?", ".", ","),
    "\nAnswer with the option's letter from the given choices directly.",
    "\nPlease answer the question using a single word or phrase.",
    "\nPlease provide the short answer with one or two words or a number.",
    "\nPlease think step by step and enclose your thinking process in <think> </think> tags and then "
    "provide the short answer with one or two words or a number in <answer> </answer>.",
    "\nPlease observe carefully and analyze what you see that helps you to solve the question in the "
    "video and enclose it in <observe> </observe> tag, and then provide the short answer with one or "
    "two words or a number in <answer> </answer>.",
    "\nPlease observe the video first and then answer the question using a single word or phrase.",
    "\nLet's think step by step and then answer the question using a single word or phrase.",
    *("<think>", "</think>", "<observe>", "</observe>", "<answer>", "</answer>"),
)
"""Pieces of the chat layout and of the prompt wordings (arXiv 2504.00883, sections 2 and 3.2)."""

_STANDING = "If I am standing by the "
_CHOOSE = (
    ". You will perform the following actions (Note: for each [please fill in], choose either "
    "'turn back,' 'turn left,' or 'turn right.'): 1. Go forward until the "
)

QUESTION_PHRASES: tuple[str, ...] = (
    *("How many ", "(s) are in this room?"),
    "Measuring from the closest point of each object, what is the distance between the ",
    *(" and the ", " (in meters)?"),
    "What is the length of the longest dimension (length, width, or height) of the ",
    ", measured in centimeters?",
    "What is the size of this room (in square meters)? \nIf multiple rooms are shown, estimate the size of "
    "the combined space.",
    "What is the size of this room (in square meters)? If multiple rooms are shown, estimate the size of "
    "the combined space.",
    "Measuring from the closest point of each object, which of these objects (",
    *(") is the closest to the ", "If there are multiple instances of an object category, measure to the closest."),
    *(_STANDING, " and facing the ", ", is the ", " to the left or the right of the "),
    " to my left, right, or back?\nAn object is to my back if I would have to turn at least 135 degrees in "
    "order to face it.",
    " to my front-left, front-right, back-left, or back-right?\nThe directions refer to the quadrants of a "
    "Cartesian plane (if I am standing at the origin and facing along the positive y-axis).",
    " to my front-left, front-right, back-left, or back-right? The directions refer to the quadrants of a "
    "Cartesian plane (if I am standing at the origin and facing along the positive y-axis).",
    " to my left, right, or back? An object is to my back if I would have to turn at least 135 degrees in "
    "order to face it.",
    *("You are a robot beginning at the ", " facing the ", ". You want to navigate to the ", _CHOOSE),
    " 2. [please fill in] 3. Go forward until the ",
    " 4. [please fill in] 5. Go forward until the ",
    " 6. [please fill in] 7. Go forward until the ",
    ". You have reached the final destination.",
    "What will be the first-time appearance order of the following categories in the video: ",
)
"""Fixed pieces of VSI-Bench's question templates (arXiv 2412.14171, appendix B)."""

AUXILIARY_PHRASES: tuple[str, ...] = (
    *("Map: ", "Seen: ", "Count: ", "Size: ", "Distance from the ", "Nearest to the ", "Order: ", "Say: ", "; ", "="),
)
"""Heads of the look-up lists that only pre-training uses."""

PHRASES: tuple[str, ...] = tuple(
    dict.fromkeys((*PROMPT_PHRASES, *QUESTION_PHRASES, *AUXILIARY_PHRASES, *DIRECTIONS, *NUMBER_WORDS, *THINGS))
)
