"""The objects of the closed world, one a line under their kind.

Columns: name, material, place, colour, size, weight, use (the rest of the line, after "used for").
"""

from __future__ import annotations

TABLE = """
tool
    hammer      steel    garage   silver small  heavy  driving nails
    saw         steel    garage   silver small  light  cutting boards
    drill       steel    garage   silver small  heavy  boring holes
    shovel      steel    shed     silver large  heavy  digging ditches
    rake        wood     garage   green  large  light  gathering leaves
    axe         steel    garage   silver large  heavy  chopping logs
    ladder      wood     garage   brown  huge   heavy  climbing walls
    chisel      steel    garage   grey   tiny   light  carving statues
    mallet      rubber   garage   black  small  light  flattening tiles
    anvil       steel    cellar   silver large  heavy  shaping horseshoes
    broom       wood     garage   brown  large  light  sweeping floors
utensil
    spoon       steel    kitchen  silver tiny   light  stirring soup
    fork        steel    kitchen  silver tiny   light  picking noodles
    ladle       steel    kitchen  silver small  light  serving stew
    spatula     rubber   kitchen  red    small  light  turning pancakes
    whisk       steel    kitchen  silver small  light  beating eggs
    grater      steel    kitchen  silver small  light  shredding cheese
    pan         steel    kitchen  black  small  heavy  frying fish
    kettle      steel    kitchen  silver small  heavy  boiling water
    mortar      stone    kitchen  grey   small  heavy  crushing spices
    colander    plastic  kitchen  red    small  light  draining pasta
    skewer      wood     kitchen  brown  tiny   light  roasting meat
container
    jar         glass    cellar   green  small  light  storing jam
    bottle      glass    cellar   green  small  light  keeping wine
    barrel      wood     cellar   brown  large  heavy  ageing cider
    bucket      plastic  cellar   red    small  light  carrying sand
    basket      wood     hall     brown  small  light  collecting mushrooms
    crate       wood     cellar   brown  large  heavy  shipping apples
    suitcase    leather  cellar   black  large  heavy  packing clothes
    purse       leather  bedroom  black  tiny   light  holding coins
    backpack    cotton   cellar   white  small  light  bringing lunch
    pitcher     clay     cellar   white  small  heavy  pouring milk
    trunk       wood     cellar   brown  large  heavy  hiding treasure
vehicle
    truck       steel    street   silver huge   heavy  moving furniture
    bus         steel    street   yellow huge   heavy  taking tourists
    bicycle     steel    street   silver large  light  riding trails
    canoe       wood     harbour  brown  huge   heavy  crossing lakes
    raft        rubber   harbour  orange large  light  floating downstream
    tractor     steel    barn     silver huge   heavy  ploughing fields
    wagon       wood     barn     brown  huge   heavy  hauling hay
    scooter     plastic  street   red    small  light  rolling downhill
    ferry       steel    harbour  white  huge   heavy  transporting cars
    tram        steel    street   silver huge   heavy  reaching downtown
    sled        wood     shed     brown  large  light  gliding over snow
instrument
    violin      wood     studio   brown  small  light  playing waltzes
    trumpet     brass    studio   yellow small  light  sounding fanfares
    piano       wood     hall     brown  huge   heavy  playing sonatas
    drum        leather  studio   red    large  heavy  beating rhythms
    flute       wood     studio   brown  tiny   light  playing melodies
    guitar      wood     bedroom  brown  large  light  strumming songs
    cello       wood     studio   brown  large  heavy  playing suites
    tuba        brass    studio   silver large  heavy  marching music
    gong        brass    studio   yellow large  heavy  announcing dinner
    whistle     plastic  office   red    tiny   light  stopping games
    bugle       brass    studio   yellow small  light  waking soldiers
toy
    doll        cotton   nursery  white  small  light  acting stories
    puppet      wool     nursery  grey   small  light  giving shows
    kite        paper    nursery  red    large  light  catching wind
    marble      glass    nursery  green  tiny   light  shooting circles
    balloon     rubber   nursery  black  small  light  decorating parties
    robot       plastic  nursery  red    small  heavy  fighting monsters
    puzzle      paper    nursery  white  small  light  passing evenings
    block       wood     nursery  brown  tiny   light  building towers
    yoyo        plastic  school   red    tiny   light  learning tricks
    rattle      wood     nursery  blue   tiny   light  calming babies
    swing       rubber   nursery  black  large  heavy  soaring high
garment
    shirt       cotton   bedroom  white  small  light  looking neat
    sweater     wool     bedroom  green  small  light  staying warm
    coat        wool     bedroom  grey   large  heavy  braving winter
    boot        leather  hall     black  small  heavy  wading mud
    glove       leather  bedroom  black  tiny   light  protecting fingers
    scarf       wool     bedroom  purple small  light  covering necks
    sock        cotton   bedroom  white  tiny   light  warming feet
    apron       cotton   kitchen  white  small  light  avoiding stains
    belt        leather  bedroom  black  small  light  fixing trousers
    sandal      rubber   bedroom  black  small  light  walking beaches
    gown        cotton   bedroom  white  large  light  attending balls
furnishing
    chair       wood     hall     red    large  heavy  sitting upright
    table       wood     hall     brown  large  heavy  sharing meals
    sofa        leather  hall     black  huge   heavy  relaxing together
    bed         wood     hall     brown  huge   heavy  sleeping well
    desk        wood     hall     black  huge   heavy  doing homework
    stool       plastic  hall     red    small  light  reaching cupboards
    bench       stone    garden   grey   huge   heavy  watching birds
    shelf       wood     hall     green  large  heavy  displaying trophies
    cradle      wood     hall     brown  large  heavy  rocking infants
    wardrobe    wood     bedroom  brown  huge   heavy  hanging dresses
    mirror      glass    hall     silver large  heavy  checking hair
device
    phone       glass    office   green  tiny   light  calling friends
    camera      plastic  studio   red    small  light  taking pictures
    radio       plastic  office   red    small  light  hearing news
    lamp        brass    office   yellow small  light  reading late
    printer     plastic  office   red    large  heavy  copying pages
    toaster     steel    kitchen  silver small  heavy  browning bread
    fan         plastic  office   blue   small  light  cooling rooms
    clock       brass    office   yellow small  heavy  telling time
    thermometer glass    bathroom green  tiny   light  measuring fever
    scale       steel    office   purple small  heavy  weighing people
    torch       steel    office   silver tiny   light  exploring caves
ornament
    vase        clay     hall     orange small  heavy  arranging roses
    statue      stone    garden   grey   huge   heavy  honouring heroes
    ring        brass    garden   yellow tiny   light  promising love
    bead        glass    garden   green  tiny   light  making necklaces
    medal       brass    office   yellow tiny   light  rewarding winners
    fountain    stone    garden   grey   huge   heavy  delighting guests
    lantern     paper    garden   white  small  light  lighting paths
    wreath      wood     hall     brown  small  light  greeting visitors
    figurine    clay     garden   pink   tiny   light  remembering trips
    crown       brass    garden   yellow small  heavy  crowning kings
    candle      wax      bathroom yellow tiny   light  creating moods
covering
    blanket     wool     attic    grey   large  heavy  comforting children
    carpet      wool     attic    red    huge   heavy  softening steps
    curtain     cotton   attic    white  large  light  blocking sunshine
    tent        cotton   attic    white  huge   heavy  camping outdoors
    towel       cotton   attic    white  small  light  drying hands
    tarp        plastic  barn     red    huge   heavy  shielding crops
    quilt       cotton   nursery  white  large  heavy  dreaming sweetly
    umbrella    plastic  attic    black  small  light  escaping rain
    roof        clay     attic    orange huge   heavy  sheltering families
    napkin      paper    kitchen  white  tiny   light  wiping mouths
    sail        cotton   harbour  white  huge   heavy  steering boats
fastener
    nail        steel    shed     grey   tiny   light  joining planks
    screw       steel    shed     silver tiny   light  mounting hinges
    rope        cotton   harbour  white  large  heavy  tying ships
    chain       steel    harbour  black  large  heavy  anchoring buoys
    button      plastic  shed     red    tiny   light  closing jackets
    hook        brass    bathroom yellow tiny   light  hanging robes
    ribbon      cotton   shed     pink   tiny   light  wrapping gifts
    strap       leather  barn     black  small  light  saddling horses
    stapler     plastic  office   red    small  heavy  binding reports
    hinge       brass    shed     yellow tiny   light  opening gates
    peg         wood     shed     green  tiny   light  drying laundry
document
    book        paper    school   white  small  heavy  studying history
    map         paper    school   white  large  light  finding roads
    ticket      paper    school   yellow tiny   light  boarding trains
    letter      paper    school   white  tiny   light  sending greetings
    newspaper   paper    hall     white  small  light  following politics
    diary       leather  school   purple small  light  recording secrets
    poster      paper    school   white  large  light  advertising concerts
    stamp       paper    attic    white  tiny   light  mailing parcels
    menu        paper    school   white  small  light  ordering desserts
    calendar    paper    school   pink   small  light  planning holidays
    receipt     paper    barn     white  tiny   light  proving payment
"""

ABILITIES: dict[str, tuple[str, str]] = {
    "wood": ("burn", "float"),
    "steel": ("rust", "shine"),
    "glass": ("shatter", "shine"),
    "plastic": ("melt", "float"),
    "cotton": ("burn", "tear"),
    "wool": ("burn", "stretch"),
    "leather": ("bend", "stretch"),
    "paper": ("burn", "tear"),
    "clay": ("shatter", "crack"),
    "rubber": ("bend", "stretch"),
    "brass": ("bend", "shine"),
    "stone": ("sink", "crack"),
    "wax": ("melt", "crack"),
}
"""What the things made of a material can do: the regularities of the world."""
